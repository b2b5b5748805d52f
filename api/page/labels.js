// @ts-check
// Texts for the API's names: parameters, statuses, stages, error codes and models.

/** @import { ParameterSchema } from '../../core/parameter-schema.ts' */
/** @import { PresentedTask as Task } from '../../core/responses.ts' */

/** Words for the names of parameters and of their choices. @type {Map<string, string>} */
const words = new Map();

/** @param {Record<string, ParameterSchema>} parameters the OpenAPI document's, by name */
export function setWords(parameters) {
  for (const [name, { title, enum: choices = [] }] of Object.entries(parameters)) {
    words.set(name, title);
    for (const choice of choices) words.set(choice, choiceLabel(choice));
  }
}

/** The label of a parameter; other names stay. @param {string} name */
export const labelOf = (name) => words.get(name) ?? name;

/** Text of the API with labels instead of names that are no English words. @param {string} text */
export const plainText = (text) => text.replace(/\w+/g, (word) => (/^[A-Z]|_|^fps$/.test(word) ? labelOf(word) : word));

/** A choice as words: `EulerEDMSampler` becomes `Euler EDM`. @param {string} value */
export const choiceLabel = (value) =>
  value
    .replace(/(Sampler|Discretization|Guider)$/, '')
    .replace(/([a-z])([A-Z])|([A-Z]{2,}|2[SM])(?=[A-Z][a-z])/g, (_, a, b, c) => (a ? `${a} ${b}` : `${c} `));

/** @type {Record<string, string>} */
const STAGES = {
  still: 'Getting the picture',
  loading: 'Loading the model',
  sampling: 'Sampling',
  decoding: 'Decoding frames',
  encoding: 'Encoding',
  uploading: 'Saving',
};

/** @type {Record<Task['status'], string>} */
export const STATUSES = {
  queued: 'Queued',
  running: 'Running',
  succeeded: 'Finished',
  failed: 'Failed',
  canceled: 'Canceled',
};

/** What happened and what to do about it, by error code. @type {Record<string, [string, string]>} */
const FAILURES = {
  invalid_input: ['The settings do not work together', 'Change the settings that are named below.'],
  banned_prompt: ['The image provider refuses this prompt', 'Rephrase the prompt.'],
  no_bridge: ['This service cannot draw prompts', 'Start with a picture instead.'],
  no_credit: [
    'The picture service is out of credit',
    'The operator of this service must add credit. Until then, start with a picture.',
  ],
  queue_full: ['The picture service is busy', 'Try again in a few minutes.'],
  rate_limited: ['The picture service limits its requests', 'Try again in a few minutes.'],
  image_unavailable: ['The picture could not be fetched', 'Check that its URL is public, or send the file itself.'],
  image_rejected: ['The picture can’t be used', 'Send another picture, or convert this one to JPEG or PNG.'],
  upstream_timeout: ['The picture service took too long', 'Try again, or start with a picture.'],
  upstream_error: ['The picture service failed', 'Try again, or start with a picture.'],
  out_of_memory: ['The clip is too large for this machine', 'Use fewer frames or a smaller size.'],
  storage_error: ['The clip could not be stored', 'Try again in a few minutes.'],
  timeout: ['The clip took too long', 'Try again. If it happens twice, use fewer frames or steps.'],
  expired: ['No worker was free in time', 'Try again later.'],
  lost: ['The job was lost', 'Try again.'],
  internal: ['Something went wrong', 'Try again.'],
};

/** What a task does now: `Sampling, 7 of 12`. @param {Task} task */
export function stageLabel({ status, stage, step, steps = 0, input }) {
  if (status === 'queued') return 'Waiting for a worker';
  const label = stage === 'still' && input.prompt ? 'Making the picture' : (STAGES[stage ?? ''] ?? stage ?? 'Starting');
  return step === undefined || steps <= 1 ? label : `${label}, ${step} of ${steps}`;
}

/** @param {NonNullable<Task['error']>} error @returns {[string, string]} what happened, and what to do */
export const failureLabel = ({ code, retryable }) =>
  FAILURES[code] ?? ['The clip failed', retryable ? 'Try again.' : 'Change the settings.'];

/** What a model is, and its limits. @param {string} name @param {string} [bridge] absent for one that draws by AI */
export function modelDescription(name, bridge) {
  const pictures = bridge ? '' : ' AI makes the pictures of prompts.';
  return name === 'camera'
    ? `Model: camera (small, built in). It moves over the picture, and near things move more. Nothing in the picture moves by itself.${pictures}`
    : `Model: ${name} (Stable Video Diffusion). Short clips without sound. Faces, hands and lettering may come out wrong. AI makes the clips.${pictures}`;
}
