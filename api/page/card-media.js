// @ts-check
// The upper part of a card: the input image and progress of a running task, the videos, or why there are none.
import { element, icon, prefersReducedMotion } from './dom.js';
import { formatDuration } from './format.js';
import { failureLabel, stageLabel } from './labels.js';

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
     * @param {(task: Task) => string | undefined} linkOf
     */
    keepLoaded(media, linkOf) {
      let failures = 0; // in a row
      media.addEventListener('loadeddata', () => {
        failures = 0;
      });
      media.addEventListener('error', async () => {
        if (++failures > 2) return showProblem('The file can’t be loaded.');
        const position = media instanceof HTMLVideoElement ? media.currentTime : 0;
        await refresh();
        const link = linkOf(getTask());
        if (!link) return;
        media.src = link;
        if (media instanceof HTMLVideoElement && position) media.currentTime = position;
      });
      return media;
    },

    /**
     * A link that saves a file under `name`. `download` alone does not rename files of another origin.
     * @param {(task: Task) => { link: string } | undefined} fileOf
     * @param {string} label
     * @param {string} name
     */
    downloadLink(fileOf, label, name) {
      const anchor = element('a', { href: fileOf(getTask())?.link, download: name }, icon('download'), label);
      anchor.addEventListener('click', async (event) => {
        event.preventDefault();
        if (Date.parse(getTask().links_expire_at ?? '') < Date.now()) await refresh();
        const link = fileOf(getTask())?.link;
        if (!link) return;
        const blob = await fetch(link)
          .then((response) => response.blob())
          .catch(() => undefined); // a bucket without CORS
        if (!blob) return open(link, '_blank', 'noopener');
        const url = URL.createObjectURL(blob);
        element('a', { href: url, download: name }).click();
        setTimeout(() => URL.revokeObjectURL(url), 60_000);
      });
      return anchor;
    },
  };
}

/** The name that a file is saved under. @param {Task} task @param {number} [index] of the video; undefined: the grid */
export const fileName = ({ id, videos = [] }, index) =>
  `clip-${id.slice(-6)}-${index === undefined ? 'grid' : `seed-${videos[index]?.seed}`}.mp4`;

/** Stage, time left and a bar, over the input image once there is one. */
export function createProgress() {
  const bar = element('progress', { max: '1', 'aria-label': 'Progress' });
  const stage = element('p', { class: 'stage' });
  const timeLeft = element('p', { class: 'left' });

  return {
    /** @param {Task} task @param {Files} files */
    render({ still }, files) {
      const overlay = element('div', { class: 'progress' }, element('div', { class: 'digits' }, stage, timeLeft), bar);
      if (!still) return [overlay];
      const image = element('img', { src: still.link, alt: 'The picture that is animated', class: 'still' });
      return [files.keepLoaded(image, (task) => task.still?.link), overlay];
    },
    /** @param {Task} task @param {boolean} isCanceling */
    update(task, isCanceling) {
      stage.textContent = isCanceling ? 'Canceling' : stageLabel(task);
      timeLeft.textContent = task.eta_seconds ? `about ${formatDuration(task.eta_seconds)} left` : '';
      if (task.status === 'queued') bar.removeAttribute('value');
      else bar.value = task.progress;
    },
  };
}

/** @param {Task} task @param {Files} files */
export function renderVideos(task, files) {
  const { videos = [] } = task;
  return videos.map(({ link, seed }, i) => {
    const video = element('video', {
      src: link,
      controls: true,
      loop: true,
      playsinline: true,
      preload: 'metadata',
      'aria-label': videos.length > 1 ? `Video ${i + 1}, seed ${seed}` : 'The clip',
    });
    video.muted = true;
    files.keepLoaded(video, (latest) => latest.videos?.[i]?.link);
    playWhileVisible(video);
    if (videos.length === 1) return video;
    const download = files.downloadLink((latest) => latest.videos?.[i], 'Download', fileName(task, i));
    return element('figure', {}, video, element('figcaption', { class: 'small digits' }, `Seed ${seed}`, download));
  });
}

/** Why there is no video. @param {Task} task */
export function renderFailure({ status, error }) {
  if (status === 'canceled') return element('p', { class: 'canceled-note soft' }, 'Canceled');
  const [what, advice] = error ? failureLabel(error) : ['The clip failed', ''];
  return element(
    'div',
    { class: 'failure' },
    icon('alert'),
    element('strong', {}, what),
    element('p', { class: 'soft small' }, error?.message ?? ''),
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
