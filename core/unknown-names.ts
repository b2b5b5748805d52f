/** Messages for unknown names: the nearest known one, or what the name is called here. */
import { closest, distance } from 'fastest-levenshtein';

/** Names that other services' clients send, with what the same thing is called here. */
const OTHER_NAMES: Record<string, string> = {
  text: 'prompt',
  text_prompt: 'prompt',
  prompt_text: 'prompt',
  image_link: 'image_url',
  img_url: 'image_url',
  input_image: 'image_url, or the file image',
  init_image: 'image_url, or the file image',
  start_image_url: 'image_url',
  prompt_image: 'image_url, or the file image',
  first_frame_image: 'image_url, or the file image',
  height: 'H',
  width: 'W',
  size: 'W and H, or aspect_ratio',
  resolution: 'W and H, or aspect_ratio',
  ratio: 'aspect_ratio',
  aspect: 'aspect_ratio',
  num_frames: 'T',
  frames: 'T',
  video_length: 'T',
  duration: 'T and fps: seconds = T / fps',
  seconds: 'T and fps: seconds = T / fps',
  frame_rate: 'fps',
  frames_per_second: 'fps',
  num_steps: 'steps',
  num_inference_steps: 'steps',
  inference_steps: 'steps',
  guidance_scale: 'cfg_scale, or max_cfg_scale',
  cfg: 'cfg_scale, or max_cfg_scale',
  max_guidance_scale: 'max_cfg_scale',
  noise_aug_strength: 'cond_aug',
  decode_chunk_size: 'decoding_t',
  motion: 'motion_bucket_id',
  motion_strength: 'motion_bucket_id',
  n: 'num_cols',
  num_videos: 'num_cols',
  num_outputs: 'num_cols',
  scheduler: 'sampler',
  webhook: 'webhook_url',
  callback_url: 'webhook_url',
  random_seed: 'seed',
};

const describeOtherName = (field: string): string | undefined => {
  const name = field.toLowerCase().replaceAll('-', '_');
  return Object.hasOwn(OTHER_NAMES, name) ? `unknown; use ${OTHER_NAMES[name]}` : undefined;
};

/** Characters of a name that are compared: the comparison takes quadratic time. */
const MAX_COMPARED = 200;

/** @returns the one of `names` that `text` resembles most, if it does */
export function findSimilar(text: string, names: string[]): string | undefined {
  const sameLetters = names.find((name) => name.toLowerCase() === text.toLowerCase());
  if (sameLetters !== undefined) return sameLetters;
  if (names.length === 0) return undefined;
  const nearest = closest(text.slice(0, MAX_COMPARED), names);
  const edits = distance(text.slice(0, MAX_COMPARED), nearest);
  return edits <= Math.max(1, nearest.length / 3) && edits < nearest.length ? nearest : undefined;
}

/** The message for a name that is not one of `names`: it suggests the nearest one, or else is `fallback`. */
export function describeUnknownName(field: string, names: string[], fallback = 'unknown'): string {
  const similar = findSimilar(field, names);
  return similar === undefined ? fallback : `unknown; did you mean ${similar}?`;
}

/** The same for parameters, whose names at other services are known. */
export const describeUnknownParameter: typeof describeUnknownName = (field, names, fallback) =>
  describeOtherName(field) ?? describeUnknownName(field, names, fallback);
