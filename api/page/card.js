// One task: its picture while it is made, its videos, or why there are none, and what can be done with it.
import { button, element, icon, wantsStillness } from './dom.js';
import { duration, failure, length, money, stageOf, when } from './labels.js';

/**
 * @param actions what its buttons do, each told the task as it then is: another, again, reuse, remove, refresh, and cancel, which tells whether it was heard
 * @param fourOf (task) => whether it can be made of another of four pictures
 * @returns the element, `update(task)`, and `complain(text)`
 */
export function createCard(first, { actions, fourOf }) {
  let task = first;
  let isCanceling = false; // a worker must hear of it first
  let shown = ''; // what kind of media there is, and of which files
  const media = element('div', { class: 'media' });
  const title = element('h3', { class: 'title', id: `title-${task.id}` });
  const facts = element('p', { class: 'facts' });
  const notes = element('ul', { class: 'notes' });
  const complaint = element('p', { class: 'problem', role: 'alert' });
  const buttons = element('div', { class: 'buttons', role: 'group', 'aria-labelledby': title.id });
  const node = element(
    'li',
    { id: task.id, class: 'card' },
    media,
    element('div', { class: 'body' }, title, facts, notes, complaint, buttons),
  );

  const act = (name) => () => actions[name](task);
  const isOpen = () => task.finished_at === undefined;

  function update(latest) {
    task = latest;
    node.dataset.status = task.status;
    title.textContent = titleOf(task);
    facts.replaceChildren(...factsOf(task));
    notes.replaceChildren(...task.warnings.map(({ field, message }) => element('li', {}, `${field}: ${message}`)));
    const now = [
      task.status,
      isOpen() ? pathOf(task.still?.link) : '',
      ...(task.videos ?? []).map(({ link }) => pathOf(link)),
    ].join();
    if (now !== shown) {
      shown = now;
      media.replaceChildren(...mediaOf());
      buttons.replaceChildren(...buttonsOf());
    }
    if (isOpen()) showProgress();
  }

  function mediaOf() {
    media.className = `media ${task.status}`;
    media.style.setProperty('--aspect', `${task.input.W} / ${task.input.H}`);
    if (isOpen()) return underWay();
    if (task.videos) return videos();
    const [what, advice] = task.error ? failure(task.error) : [];
    if (task.status === 'canceled') return [element('p', { class: 'quietly' }, 'Canceled')];
    return [
      element(
        'div',
        { class: 'failure' },
        icon('alert'),
        element('strong', {}, what ?? 'It did not work'),
        element('p', {}, task.error?.message ?? ''),
        element('p', { class: 'advice' }, advice ?? ''),
      ),
    ];
  }

  const bar = element('progress', { max: '1', 'aria-label': 'Progress' });
  const stage = element('p', { class: 'stage' });
  const left = element('p', { class: 'left' });

  function underWay() {
    const overlay = element('div', { class: 'under-way' }, element('div', {}, stage, left), bar);
    if (!task.still) return [overlay];
    const still = element('img', { src: task.still.link, alt: 'The picture that is animated', class: 'still' });
    return [keepShowing(still, () => task.still?.link), overlay];
  }

  function showProgress() {
    stage.textContent = isCanceling ? 'Canceling' : stageOf(task);
    left.textContent = task.eta_seconds ? `about ${duration(task.eta_seconds)} left` : '';
    if (task.status === 'queued') bar.removeAttribute('value');
    else bar.value = task.progress;
  }

  function videos() {
    media.classList.toggle('many', task.videos.length > 1);
    return task.videos.map((made, i) => {
      const video = element('video', {
        src: made.link,
        controls: true,
        loop: true,
        playsinline: true,
        preload: 'metadata',
        'aria-label': task.videos.length > 1 ? `Video ${i + 1}, seed ${made.seed}` : 'The clip',
      });
      video.muted = true;
      keepShowing(video, () => task.videos?.[i]?.link);
      playWhileSeen(video);
      if (task.videos.length === 1) return video;
      const caption = element(
        'figcaption',
        {},
        `Seed ${made.seed}`,
        download(() => task.videos[i], 'Download', nameOf(i)),
      );
      return element('figure', {}, video, caption);
    });
  }

  const nameOf = (i) => `clip-${task.id.slice(-6)}-${i === undefined ? 'grid' : `seed-${task.videos[i].seed}`}.mp4`;

  /** A link that saves the file under a name of its own, which no link by itself does, and signed anew where it has expired meanwhile. */
  function download(fileOf, words, name) {
    const anchor = element('a', { href: fileOf().link, download: name }, icon('download'), words);
    anchor.addEventListener('click', async (event) => {
      event.preventDefault();
      if (Date.parse(task.links_expire_at) < Date.now()) await actions.refresh(task);
      const { link } = fileOf();
      const file = await fetch(link)
        .then((answer) => answer.blob())
        .catch(() => undefined); // a bucket without CORS
      if (!file) return open(link, '_blank', 'noopener');
      const address = URL.createObjectURL(file);
      element('a', { href: address, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(address), 60_000);
    });
    return anchor;
  }

  /** Where a link has expired meanwhile, it is asked for again, and what was shown goes on where it was. */
  function keepShowing(file, linkOf) {
    let failures = 0; // in a row
    file.addEventListener('loadeddata', () => {
      failures = 0;
    });
    file.addEventListener('error', async () => {
      if (++failures > 2) return complain('The file can’t be loaded.');
      const { currentTime } = file;
      await actions.refresh(task);
      if (!linkOf()) return;
      file.src = linkOf();
      if (currentTime) file.currentTime = currentTime;
    });
    return file;
  }

  function buttonsOf() {
    const reuse = button('Use settings', 'settings', act('reuse'));
    const remove = button('', 'trash', act('remove'), { class: 'icon-button', 'aria-label': 'Delete' });
    if (isOpen()) {
      const stop = button('Cancel', 'stop', async () => {
        stop.disabled = true;
        isCanceling = await actions.cancel(task);
        stop.disabled = isCanceling;
        if (isOpen()) showProgress();
      });
      return [stop, reuse];
    }
    if (task.status !== 'succeeded') {
      const again = task.status === 'canceled' || task.error?.retryable;
      return [...(again ? [button('Try again', 'again', act('again'))] : []), reuse, remove];
    }
    const file = task.grid
      ? download(() => task.grid, 'Grid', nameOf())
      : download(() => task.videos[0], 'Download', nameOf(0));
    const nodes = [file, button('Another seed', 'again', act('another')), reuse, remove];
    if (!fourOf(task)) return nodes;
    const four = [1, 2, 3, 4].map((index) => {
      const isThis = index === task.input.image_index;
      const one = element(
        'button',
        { type: 'button', 'aria-pressed': String(isThis), 'aria-label': `Picture ${index} of four` },
        String(index),
      );
      one.addEventListener('click', () => !isThis && actions.another(task, index));
      return one;
    });
    return [...nodes, element('div', { class: 'four' }, element('span', {}, 'Another of the four'), ...four)];
  }

  function complain(text) {
    complaint.textContent = text;
  }

  update(task);
  return { node, update, complain, task: () => task };
}

const pathOf = (link) => (link ? new URL(link).pathname : '');

/** What it was made of. */
export function titleOf({ input: { prompt, image_url, still_of } }) {
  if (prompt) return prompt;
  if (image_url && URL.canParse(image_url)) return `Picture from ${new URL(image_url).host}`;
  return still_of ? 'Picture of an earlier clip' : 'Your picture';
}

function factsOf({ input, videos, cost, created_at }) {
  const { W, H, T, fps, seed, num_cols } = input;
  const [{ width = W, height = H } = {}] = videos ?? [];
  const seeds = num_cols > 1 ? `Seeds ${seed}–${seed + num_cols - 1}` : `Seed ${seed}`;
  const texts = [`${width} × ${height}`, length(T, fps), seeds];
  if (cost?.amount > 0) texts.push(money(cost));
  const time = element('time', { datetime: created_at }, when(created_at));
  return [...texts.map((text) => element('span', {}, text)), time];
}

const seen = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      target.toggleAttribute('data-away', !isIntersecting);
      if (!isIntersecting) target.pause();
      else if (!target.hasAttribute('data-stopped')) target.play().catch(() => undefined); // a browser may not want to
    }
  },
  { threshold: 0.4 },
);

/** Videos play while they are seen, unless whoever looks has stopped them or wants little to move. */
function playWhileSeen(video) {
  if (wantsStillness()) return;
  seen.observe(video);
  video.addEventListener('pause', () => video.toggleAttribute('data-stopped', !video.hasAttribute('data-away')));
}
