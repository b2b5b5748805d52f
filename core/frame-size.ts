/** The size of a clip's frames where a request does not give both sides: the aspect ratio of the picture, the pixels of the model's own size. */
import { type ModelName, presets } from './presets.ts';

/** Limits of W and H, in pixels. A side is a multiple of SIDE_STEP, or one of the model's own sides. */
export const [MIN_SIDE, MAX_SIDE, SIDE_STEP] = [64, 2048, 64];
/** Limits of a frame's width divided by its height. A picture beyond them is cropped, or gets bars. */
export const [MIN_RATIO, MAX_RATIO] = [9 / 21, 21 / 9];

/** From this ratio error on, a size other than the model's own is better. */
const OWN_TOLERANCE = 0.05;
/** How many more pixels than its own size a model may get. */
const MAX_PIXELS = 1.1;
/** A ratio error of 1 % counts as much as 5 % more or fewer pixels. */
const PIXEL_WEIGHT = 0.2;

/** In pixels. */
export interface Size {
  H: number;
  W: number;
}

/** An input or job. Until its picture is known it may lack W or H, and then has `aspect_ratio`. */
export interface MaybeSized {
  H?: number | undefined;
  W?: number | undefined;
  aspect_ratio?: 'auto' | undefined;
}

export const isSized = <T extends MaybeSized>(input: T): input is T & Size =>
  input.W !== undefined && input.H !== undefined;

/** The ratio of `W:H`, such as 16:9; undefined for any other text, and for one without positive numbers. */
export function parseRatio(text: string): number | undefined {
  const [, W, H] = /^(\d{1,5}(?:\.\d{1,5})?):(\d{1,5}(?:\.\d{1,5})?)$/.exec(text) ?? [];
  return Number(W) > 0 && Number(H) > 0 ? Number(W) / Number(H) : undefined;
}

/**
 * The input with both sides, and without `aspect_ratio`. A side that it has already stays.
 * @param ratio width divided by height, > 0, of the picture or the prompt
 */
export const withSize = <T extends MaybeSized>(input: T, ratio: number, model: ModelName): T & Size =>
  setSize(input, frameSize(ratio, model, input));

/** The input with this size, and without `aspect_ratio`. */
export function setSize<T extends MaybeSized>(input: T, { H, W }: Size): T & Size {
  const { aspect_ratio: _, H: _H, W: _W, ...rest } = input;
  return { H, W, ...rest } as T & Size;
}

/** @param given the sides that are known: the other one follows, and the number of pixels may be any */
function frameSize(ratio: number, model: ModelName, given: MaybeSized): Size {
  const { H, W } = presets[model];
  const wanted = Math.min(MAX_RATIO, Math.max(MIN_RATIO, ratio));
  const distance = (size: Size) => Math.abs(Math.log(size.W / size.H / wanted));
  const growth = (size: Size) => (size.W * size.H) / (W * H);
  const isFree = given.W === undefined && given.H === undefined;

  const own = [
    { H, W },
    { H: W, W: H },
  ];
  const near = own.find((size) => distance(size) <= Math.log(1 + OWN_TOLERANCE));
  if (isFree && near) return near;
  const multiples = Array.from({ length: MAX_SIDE / SIDE_STEP }, (_, i) => (i + 1) * SIDE_STEP);
  const sizes = (given.W === undefined ? multiples : [given.W]).flatMap((W) =>
    (given.H === undefined ? multiples : [given.H]).map((H) => ({ H, W })),
  );
  const cost = (size: Size) => distance(size) + (isFree ? PIXEL_WEIGHT * Math.abs(Math.log(growth(size))) : 0);
  return [...own, ...sizes]
    .filter((size) => [size.W, undefined].includes(given.W) && [size.H, undefined].includes(given.H))
    .filter((size) => !isFree || growth(size) <= MAX_PIXELS)
    .reduce((best, size) => (cost(size) < cost(best) ? size : best));
}

/** The most pixels that a frame can have, for any aspect ratio of the picture. */
export function maxPixels({ W, H }: MaybeSized, model: ModelName): number {
  if (W !== undefined && H !== undefined) return W * H;
  const side = W ?? H;
  return side === undefined
    ? presets[model].W * presets[model].H * MAX_PIXELS
    : side * Math.min(MAX_SIDE, side * MAX_RATIO);
}

/** Width and height of a PNG, in pixels, from its first 24 bytes; undefined for anything else. */
export function pngSize(png: Uint8Array): { width: number; height: number } | undefined {
  const bytes = Buffer.from(png.buffer, png.byteOffset, png.byteLength);
  if (bytes.length < PNG_HEADER || !bytes.subarray(1, 4).equals(Buffer.from('PNG'))) return undefined;
  return { width: bytes.readUInt32BE(16), height: bytes.readUInt32BE(20) };
}
/** Bytes of a PNG that `pngSize` needs. */
export const PNG_HEADER = 24;
