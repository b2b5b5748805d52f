// @ts-check
// The upper part of a card: the input image and progress of a running task, the videos, or why there are none.
import { element, icon, prefersReducedMotion } from './dom.js';
import { formatDuration } from './format.js';
import { failureLabel, plainText, stageLabel } from './labels.js';
import { areLinksExpired, stillLink } from './task.js';

/** @import { PresentedTask as Task } from '../../core/responses.ts' */
/** @typedef {ReturnType<typeof createFiles>} Files */

/**
 * Elements for a task's files. Their links expire: then the task is requested again, and the new link is used.
 * @param {{ getTask: () => Task, refresh: () => Promise<unknown>, showProblem: (text: string) => void }} options
 */
export function createFiles({ getTask, refresh, showProblem }) {
  return {
    /**
     * Loads the media again when that fails.
     * @template {HTMLImageElement | HTMLVideoElement} M
     * @param {M} media
     * @param {(task: Task) => Record<string, string | undefined>} linksOf attributes
     */
    keepLoaded(media, linksOf) {
      let failures = 0; // in a row
      media.addEventListener('loadeddata', () => {
        failures = 0;
      });
      media.addEventListener('error', async () => {
        if (++failures > 2) return showProblem('The file can’t be loaded.');
        const position = media instanceof HTMLVideoElement ? media.currentTime : 0;
        await refresh();
        for (const [name, link] of Object.entries(linksOf(getTask()))) if (link) media.setAttribute(name, link);
        if (media instanceof HTMLVideoElement && position) media.currentTime = position;
      });
      return media;
    },

    /**
     * A link that saves a file.
     * @param {(task: Task) => { download_link: string, filename: string } | undefined} fileOf
     * @param {string | Node} label
     */
    downloadLink(fileOf, label) {
      const anchor = element('a', { download: fileOf(getTask())?.filename }, icon('download'), label);
      const renew = () => anchor.setAttribute('href', fileOf(getTask())?.download_link ?? '');
      renew();
      anchor.addEventListener('click', async (event) => {
        renew();
        if (!areLinksExpired(getTask())) return;
        event.preventDefault();
        await refresh();
        if (!areLinksExpired(getTask())) anchor.click();
      });
      return anchor;
    },
  };
}

/** How a picture fills a frame, as the API fits it. */
const OBJECT_FIT = { cover: 'cover', contain: 'contain', stretch: 'fill' };

/**
 * A frame for each video, with the size that it has at the end, so that a card keeps its size.
 * @param {Task} task
 * @param {(index: number) => Node[]} render content of a frame
 * @param {(index: number) => Node[]} [renderAction] stands next to the seed
 */
function renderFrames({ input: { seed, num_cols }, videos }, render, renderAction = () => []) {
  const { length } = videos ?? { length: num_cols };
  return Array.from({ length }, (_, i) => {
    const frame = element('div', { class: 'frame' }, ...render(i));
    if (length === 1) return frame;
    const caption = element('figcaption', { class: 'small digits' }, `Seed ${seed + i}`, ...renderAction(i));
    return element('figure', {}, frame, caption);
  });
}

/**
 * The frames of a task without videos: its picture, or nothing.
 * @param {Task} task @param {string | undefined} picture URL @param {Files} files
 */
export function renderStills(task, picture, files) {
  return renderFrames(task, (i) => {
    if (!picture) return [];
    const image = element('img', { src: picture, alt: i === 0 ? 'The picture that is animated' : '', class: 'still' });
    image.style.objectFit = OBJECT_FIT[task.input.fit];
    if (!picture.startsWith('blob:')) return [files.keepLoaded(image, (latest) => ({ src: stillLink(latest) }))];
    image.addEventListener('error', () => image.remove()); // a browser need not know every type that the service knows
    return [image];
  });
}

/** Stage, time left and a bar, over the frames. */
export function createProgress() {
  const bar = element('progress', { max: '1', 'aria-label': 'Progress' });
  const stage = element('p', { class: 'stage' });
  const timeLeft = element('p', { class: 'left' });

  return {
    node: element('div', { class: 'overlay' }, element('div', { class: 'digits' }, stage, timeLeft), bar),
    /** @param {Task} task @param {boolean} isCanceling */
    update(task, isCanceling) {
      stage.textContent = isCanceling ? 'Canceling' : stageLabel(task);
      timeLeft.textContent = task.eta_seconds ? `about ${formatDuration(task.eta_seconds)} left` : '';
      if (task.status === 'queued') bar.removeAttribute('value');
      else bar.value = task.progress;
    },
  };
}

/**
 * @param {Task} task
 * @param {(task: Task) => string | undefined} pictureOf the URL of what is shown until a video without a poster has loaded
 * @param {Files} files
 */
export function renderVideos(task, pictureOf, files) {
  const { videos = [] } = task;
  const renderVideo = (/** @type {number} */ i) => {
    const linksOf = (/** @type {Task} */ latest) => {
      const { link, poster } = latest.videos?.[i] ?? {};
      return { poster: poster?.link ?? pictureOf(latest), src: link };
    };
    const video = element('video', {
      ...linksOf(task),
      controls: true,
      loop: true,
      playsinline: true,
      preload: 'metadata',
      'aria-label': videos.length > 1 ? `Video ${i + 1}, seed ${videos[i]?.seed}` : 'The clip',
    });
    video.muted = true;
    files.keepLoaded(video, linksOf);
    playWhileVisible(video);
    return [video];
  };
  return renderFrames(task, renderVideo, (i) => {
    const label = element('span', { class: 'unseen' }, 'Download');
    return [files.downloadLink((latest) => latest.videos?.[i], label)];
  });
}

/** Why a task has failed. @param {Task} task */
export function renderFailure({ error }) {
  const [what, advice] = error ? failureLabel(error) : ['The clip failed', ''];
  return element(
    'div',
    { class: 'failure' },
    icon('alert'),
    element('strong', {}, what),
    element('p', { class: 'soft small' }, plainText(error?.message ?? '')),
    element('p', { class: 'small' }, advice),
  );
}

const visibility = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      const video = /** @type {HTMLVideoElement} */ (target);
      video.toggleAttribute('data-out-of-view', !isIntersecting);
      if (!isIntersecting) video.pause();
      else if (!video.hasAttribute('data-stopped')) video.play().catch(() => undefined); // a browser may refuse
    }
  },
  { threshold: 0.4 },
);

/** Plays a video while it is visible, unless the user stopped it or prefers little motion. @param {HTMLVideoElement} video */
function playWhileVisible(video) {
  if (prefersReducedMotion()) return;
  visibility.observe(video);
  video.addEventListener('pause', () => video.toggleAttribute('data-stopped', !video.hasAttribute('data-out-of-view')));
}
