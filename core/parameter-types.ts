/** The kinds of values that parameters have: schemas whose errors name the allowed values. */
import * as v from 'valibot';
import { MAX_RATIO, MAX_SIDE, MIN_RATIO, MIN_SIDE, parseRatio, SIDE_STEP, type Size } from './frame-size.ts';

const MAX_URL = 2048; // characters

export function integer(min: number, max: number, description: string) {
  const allowed = `must be a whole number from ${min} to ${max}`;
  const whole = v.pipe(v.number(allowed), v.integer(allowed), v.description(description));
  return v.pipe(whole, v.minValue(min, allowed), v.maxValue(max, allowed));
}

export function real(min: number, max: number, description: string) {
  const allowed = max === Infinity ? `must be a number, ${min} or more` : `must be a number from ${min} to ${max}`;
  const above = v.pipe(v.number(allowed), v.finite(allowed), v.minValue(min, allowed), v.description(description));
  return max === Infinity ? above : v.pipe(above, v.maxValue(max, allowed));
}

export function positive(description: string) {
  const allowed = 'must be a number above 0';
  return v.pipe(v.number(allowed), v.finite(allowed), v.gtValue(0, allowed), v.description(description));
}

/**
 * A side of the frame. The latents are an eighth of it, and the network halves them three times more, so it is a multiple of 64. The
 * sides of a model's own size may be others (the camera's 848 and 480). They are allowed, so that a task's input can be sent again.
 */
export function side({ W, H }: Size, name: string, other: string) {
  const allowed = ({ input }: { input: unknown }) => {
    const text = `must be a multiple of ${SIDE_STEP} from ${MIN_SIDE} to ${MAX_SIDE}`;
    if (typeof input !== 'number' || !Number.isFinite(input)) return text;
    const inside = Math.min(MAX_SIDE, Math.max(MIN_SIDE, input));
    const nearest = [...new Set([Math.floor(inside / SIDE_STEP), Math.ceil(inside / SIDE_STEP)])];
    return `${text}; nearest: ${nearest.map((steps) => steps * SIDE_STEP).join(' and ')}`;
  };
  return v.pipe(
    v.number(allowed),
    v.check((pixels) => pixels % SIDE_STEP === 0 || pixels === W || pixels === H, allowed),
    v.minValue(MIN_SIDE, allowed),
    v.maxValue(MAX_SIDE, allowed),
    v.description(
      `${name} of the frames in pixels. By default it follows from aspect_ratio, and from ${other} if that is given`,
    ),
  );
}

/** `auto`, or a ratio within the limits. */
export function aspectRatio() {
  const allowed = 'must be auto, or W:H from 9:21 to 21:9, such as 16:9, 9:16 or 1:1';
  const isAllowed = (text: string) => {
    const ratio = parseRatio(text);
    return text === 'auto' || (ratio !== undefined && ratio >= MIN_RATIO && ratio <= MAX_RATIO);
  };
  return v.pipe(
    v.string(allowed),
    v.trim(),
    v.check(isAllowed, allowed),
    v.description(
      'Aspect ratio of the frames. auto is that of the picture, or of the prompt’s --ar. Ignored if W and H are given',
    ),
  );
}

export function choice<const T extends readonly string[]>(names: T, description: string) {
  return v.pipe(v.picklist(names, `must be one of ${names.join(', ')}`), v.description(description));
}

/** An http(s) URL. It becomes its normal form, `URL.href`, which is ASCII, so that what is stored is what is requested. */
export function url(allowed: string, about: { description: string; examples?: string[] }) {
  return v.pipe(
    v.string(allowed),
    v.trim(),
    v.maxLength(MAX_URL, `${allowed} of at most ${MAX_URL} characters`),
    v.url(allowed),
    v.regex(/^https?:\/\//i, allowed),
    v.check(
      (text) => text.isWellFormed() && !/\p{Cc}/u.test(text),
      `${allowed} without control characters or unpaired surrogates`,
    ),
    v.metadata(about),
    v.transform((text) => new URL(text)),
    v.check(({ username, password }) => !username && !password, `${allowed} without user name and password`),
    v.transform(({ href }) => href),
    v.maxLength(MAX_URL, `${allowed} of at most ${MAX_URL} characters when percent-encoded`),
  );
}

/** The URL of a webhook, which may be http where ALLOW_PRIVATE_URLS is set. */
export const webhookUrl = (about: { description: string; examples?: string[] }) => url('must be an https URL', about);
