// What the API's names and numbers are called on the page.

const STAGES = {
  still: 'Getting the picture',
  loading: 'Loading the model',
  sampling: 'Sampling',
  decoding: 'Decoding frames',
  encoding: 'Encoding',
  uploading: 'Saving',
};
export const STATUSES = {
  queued: 'Queued',
  running: 'Running',
  succeeded: 'Finished',
  failed: 'Failed',
  canceled: 'Canceled',
};

/** What is being done, such as `Sampling, 7 of 12`. */
export function stageOf({ status, stage, step, steps, input }) {
  if (status === 'queued') return 'Waiting for a worker';
  const words = stage === 'still' && input.prompt ? 'Making the picture' : (STAGES[stage] ?? stage ?? 'Starting');
  return step === undefined || !(steps > 1) ? words : `${words}, ${step} of ${steps}`;
}

/** @param seconds such as 75: `1 min 15 s` */
export function duration(seconds) {
  const whole = Math.max(1, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min${whole % 60 && whole < 600 ? ` ${whole % 60} s` : ''}`;
  return `${Math.floor(whole / 3600)} h ${Math.round((whole % 3600) / 60)} min`;
}

/** A clip's length, such as `2.3 s`. */
export const length = (frames, fps) => `${number(frames / fps, 1)} s`;

export const number = (value, digits = 3) =>
  new Intl.NumberFormat('en', { maximumFractionDigits: digits }).format(value);

/** @param amount in millionths of the currency's unit; at least two figures of it are shown, however small it is */
export function money({ amount, currency }) {
  const units = amount / 1e6;
  const digits = units > 0 && units < 0.1 ? Math.min(6, 1 - Math.floor(Math.log10(units))) : 2;
  const style = { style: 'currency', currency, minimumFractionDigits: 2, maximumFractionDigits: Math.max(2, digits) };
  return new Intl.NumberFormat('en', style).format(units);
}

export function bytes(count) {
  return count < 1e6 ? `${Math.max(1, Math.round(count / 1000))} kB` : `${number(count / 1e6, 1)} MB`;
}

/** `14:05` today, else with the day. */
export function when(iso) {
  const date = new Date(iso);
  const isToday = date.toDateString() === new Date().toDateString();
  const clock = { hour: '2-digit', minute: '2-digit' };
  return date.toLocaleString(undefined, isToday ? clock : { day: 'numeric', month: 'short', ...clock });
}

/** Why a task failed, by its code, and what can be done about it. */
const FAILURES = {
  invalid_input: ['The settings do not work together', 'Change what is named below.'],
  banned_prompt: ['Midjourney refuses this prompt', 'Say it in other words.'],
  no_bridge: ['Prompts can’t be drawn here', 'Begin with a picture instead.'],
  no_credit: [
    'The picture service is out of credit',
    'Whoever runs this service must top it up; a picture of your own works now.',
  ],
  queue_full: ['The picture service is full', 'Try again in a few minutes.'],
  rate_limited: ['The picture service has had enough for the moment', 'Try again in a few minutes.'],
  image_unavailable: [
    'The picture could not be fetched',
    'See that its address works for everybody, or send the file itself.',
  ],
  image_rejected: ['The picture can’t be used', 'Send another one, or save it anew as jpeg or png.'],
  upstream_timeout: ['The picture service took too long', 'Try again, or begin with a picture.'],
  upstream_error: ['The picture service failed', 'Try again, or begin with a picture.'],
  out_of_memory: ['The clip is too large for this machine', 'Take fewer frames or a smaller size.'],
  storage_error: ['The clip could not be stored', 'Try again in a few minutes.'],
  timeout: ['It took too long', 'Try again, with fewer frames or steps if it happens twice.'],
  expired: ['No worker was free in time', 'Try again later.'],
  lost: ['The work was lost on the way', 'Try again.'],
  internal: ['Something went wrong here', 'Try again.'],
};

/** @returns [what happened, what to do] */
export const failure = ({ code, retryable }) =>
  FAILURES[code] ?? ['It did not work', retryable ? 'Try again.' : 'Change the settings.'];

/** What a model is, and what not to expect of it. */
export function aboutModel(name) {
  if (name === 'camera')
    return 'Model: camera, a small built-in one. It moves over the picture; it knows no depth and moves nothing in it.';
  return `Model: ${name} (Stable Video Diffusion). Short clips without sound; faces, hands and lettering may come out wrong.`;
}
