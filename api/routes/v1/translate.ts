/** Turns the body of POST /v1/videos, with OpenAI's names, into that of POST /img2vid. */
import { formatCount } from '../../../core/format.ts';
import { MAX_SIDE, MIN_SIDE, SIDE_STEP } from '../../../core/frame-size.ts';
import { type FieldNote, InvalidRequest } from '../../../core/invalid-request.ts';
import { defaults } from '../../../core/parameters.ts';
import { type ModelName, presets } from '../../../core/presets.ts';
import { findSimilar } from '../../../core/unknown-names.ts';
import type { Config } from '../../config.ts';
import { takeInlinePicture } from '../../http/inline-picture.ts';
import { invalidInput, Problem } from '../../http/problem.ts';
import type { Body } from '../../http/read-body.ts';

type Values = Body['values'];
type Settings = Pick<Config, 'model' | 'limits'>;
/** What a part of the translation found. */
interface Part {
  values?: Values;
  image?: Uint8Array;
  errors?: FieldNote[];
  warnings?: FieldNote[];
}

const error = (field: string, message: string): Part => ({ errors: [{ field, message }] });
const isAbsent = (value: unknown) => value === undefined || value === null;

/**
 * @returns the body with our names and warnings about what does not map, and a function that gives an error of it OpenAI's names
 * @throws Problem 422 values that can't be translated
 */
export function translate({ values, ...body }: Body, settings: Settings) {
  const { prompt, model, input_reference, seconds, size, ...rest } = values;
  const own = Object.fromEntries(Object.entries(rest).filter(([name]) => !REFERENCE.test(name)));
  const parts = [
    checkModel(model, settings),
    readSources(values, body.image !== undefined),
    isAbsent(seconds) ? {} : readSeconds(seconds, own, settings),
    isAbsent(size) ? {} : readSize(size, own, settings),
  ];
  const errors = parts.flatMap((part) => part.errors ?? []);
  if (errors.length > 0) throw invalidInput(errors);
  const inline = parts.find(({ image }) => image)?.image;
  const translated: Body = {
    ...body,
    ...(inline && { image: inline, imageField: 'image_url' }),
    values: Object.fromEntries([own, ...parts.map(({ values = {} }) => values)].flatMap(Object.entries)), // __proto__ stays a name
    warnings: parts.flatMap((part) => part.warnings ?? []),
  };
  const isOwn = (name: string) => own[name] !== undefined || body.imageField === name;
  const translatedNames = ['image', 'image_url'].filter((name) => !isOwn(name));
  return { body: translated, renamed: (thrown: unknown) => withNames(thrown, translatedNames) };
}

/** OpenAI's names, which the parser of ours does not know. */
const NAMES = ['prompt', 'model', 'input_reference', 'seconds', 'size'];

/** @returns the error, with `input_reference` instead of these names, and with OpenAI's name for one that resembles it */
function withNames(thrown: unknown, names: string[]): unknown {
  const rename = (errors: FieldNote[]) =>
    errors.map(({ field, message }) => {
      const similar = message.startsWith('unknown') ? findSimilar(field, NAMES) : undefined;
      if (similar !== undefined) return { field, message: `unknown; did you mean ${similar}?` };
      return { field: names.includes(field) ? 'input_reference' : field, message };
    });
  if (thrown instanceof InvalidRequest) return invalidInput(rename(thrown.errors));
  const isInput = thrown instanceof Problem && thrown.options.errors;
  if (!isInput) return thrown;
  return invalidInput(rename(thrown.options.errors!), thrown.code as Parameters<typeof invalidInput>[1]);
}

/** Clients that know only OpenAI's models name one of those. */
function checkModel(model: unknown, { model: own }: Settings): Part {
  if (isAbsent(model) || model === own) return {};
  if (typeof model !== 'string' || !/^sora-/.test(model)) return error('model', `must be ${own}, this service’s model`);
  return { warnings: [{ field: 'model', message: `this service makes all videos with the model ${own}` }] };
}

/** Fields of a form that spell out `input_reference: {…}`. */
const REFERENCE = /^input_reference\[(.*)\]$/;
const NO_REFERENCE = 'must be a picture file in multipart/form-data, or an object with image_url';

function readSources(values: Values, hasImage: boolean): Part {
  const { prompt, input_reference, image_url, still_of } = values;
  const fromForm = Object.entries(values).flatMap(([name, value]) => {
    const inner = REFERENCE.exec(name)?.[1];
    return inner === undefined ? [] : [[inner, value] as const];
  });
  const reference = fromForm.length > 0 ? Object.fromEntries(fromForm) : input_reference;
  const given = [hasImage, !isAbsent(input_reference), fromForm.length > 0, !isAbsent(image_url), !isAbsent(still_of)];
  const count = given.filter(Boolean).length;
  if (count > 1) return error('input_reference', 'give one of input_reference, image_url and still_of, once');
  if (count === 0)
    return isAbsent(prompt) ? error('prompt', 'prompt or input_reference is needed') : { values: { prompt } };

  const picture = isAbsent(reference) ? {} : readReference(reference);
  if (picture.errors) return picture;
  if (!isAbsent(prompt) && typeof prompt !== 'string') return error('prompt', 'must be text');
  const ignored = { field: 'prompt', message: 'ignored: the model animates the picture as it is, and reads no text' };
  return { ...picture, warnings: isAbsent(prompt) || prompt === '' ? [] : [ignored] };
}

function readReference(reference: unknown): Part {
  if (typeof reference !== 'object' || reference === null) return error('input_reference', NO_REFERENCE);
  const { image_url, ...others } = reference as Values;
  if ('file_id' in others) return error('input_reference', `${NO_REFERENCE}; this service keeps no files by file_id`);
  if (typeof image_url !== 'string' || Object.keys(others).length > 0) return error('input_reference', NO_REFERENCE);
  try {
    return takeInlinePicture({ image_url });
  } catch (thrown) {
    throw withNames(thrown, ['image_url']);
  }
}

/** A positive number, also as text. */
function readNumber(value: unknown): number | undefined {
  const number = typeof value === 'string' && /^\d{1,9}(\.\d{1,9})?$/.test(value.trim()) ? Number(value) : value;
  return typeof number === 'number' && Number.isFinite(number) && number > 0 ? number : undefined;
}

/** Seconds become a number of frames. Where MAX_FRAMES is too low for the usual frame rate, that becomes lower. */
function readSeconds(value: unknown, own: Values, { model, limits }: Settings): Part {
  const { maxFrames, maxFps } = limits;
  if (!isAbsent(own.T)) return error('seconds', 'give seconds or T, not both');
  const seconds = readNumber(value);
  if (seconds === undefined) return error('seconds', 'must be a number above 0');
  const given = isAbsent(own.fps) ? undefined : readNumber(own.fps);
  if (!isAbsent(own.fps) && !(given !== undefined && given <= maxFps)) return {}; // fps is invalid, which its own check says
  const usual = Math.min(defaults(model).fps, maxFps);
  const fps = given ?? Math.max(1, Math.min(usual, Math.floor(maxFrames / seconds)));
  const T = Math.round(seconds * fps);
  const longest = Math.floor((100 * maxFrames) / fps) / 100;
  if (T < 1 || T > maxFrames)
    return error(
      'seconds',
      `must be from ${Math.ceil(100 / fps) / 100} to ${longest} at ${formatCount(fps, 'frame')} a second`,
    );

  const warnings: FieldNote[] = [];
  const warn = (message: string) => warnings.push({ field: 'seconds', message });
  if (given === undefined && fps < usual)
    warn(`fps is ${fps} instead of ${usual}, because a video may have at most ${maxFrames} frames`);
  if (Math.abs(T / fps - seconds) >= 0.005) warn(`T ${T} at fps ${fps} gives ${formatSeconds(T / fps)} s`);
  if (model !== 'camera' && T !== presets[model].T) warn(`T is ${T}; the model was trained on T ${presets[model].T}`);
  return { values: { T, fps }, warnings };
}

/** The sides become the nearest that are allowed. */
function readSize(value: unknown, own: Values, { model }: Settings): Part {
  if (value === 'auto') return {};
  const other = ['W', 'H', 'aspect_ratio'].find((name) => !isAbsent(own[name]));
  if (other) return error('size', `give size or ${other}, not both`);
  const [, ...sides] = (typeof value === 'string' && /^(\d{1,5})x(\d{1,5})$/i.exec(value.trim())) || [];
  const wanted = sides.map(Number);
  if (wanted.length === 0 || wanted.some((side) => side < MIN_SIDE || side > MAX_SIDE))
    return error('size', `must be auto, or WxH with sides from ${MIN_SIDE} to ${MAX_SIDE}, such as 1280x720`);
  const [W, H] = wanted.map((side) => nearestSide(side, model));
  const message = `${value} became ${W}x${H}: a side is a multiple of ${SIDE_STEP}, or the model’s own`;
  const isExact = W === wanted[0] && H === wanted[1];
  return { values: { W, H }, warnings: isExact ? [] : [{ field: 'size', message }] };
}

const nearestSide = (side: number, model: ModelName) =>
  [presets[model].W, presets[model].H].includes(side) ? side : Math.round(side / SIDE_STEP) * SIDE_STEP;

/** At most two decimals: 4, 3.04. */
export const formatSeconds = (seconds: number) => String(Math.round(seconds * 100) / 100);
