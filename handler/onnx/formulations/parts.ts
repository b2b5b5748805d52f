/** How a layer is applied to parts of its input. */
import { oneByOne } from '../layers.ts';
import type { Formulations } from './types.ts';

/** For a GPU, where the processor would lead a loop. (A loop was not tried on one.) */
export const unrolled: Formulations['oneByOne'] = (g, x, layer) => {
  const results = Array.from({ length: x.shape[0]! }, (_, n) => layer(g.slice(x, 0, n, n + 1)));
  return g.concat(results, 0);
};

/** The frames of B videos one below the other: [B·T, C, H, W] → [B, C, T·H, W] */
export const belowEachOther: Formulations['videoOf'] = (g, frames, T) => {
  const [N, C, H, W] = frames.shape as [number, number, number, number];
  const B = N / T;
  return g.reshape(g.transpose(g.reshape(frames, [B, T, C, H * W]), [0, 2, 1, 3]), [B, C, T * H, W]);
};

/** The other way round: [B, C, T·H, W] → [B·T, C, H, W] */
export const framesOfRows: Formulations['framesOf'] = (g, video, T) => {
  const [B, C, height, W] = video.shape as [number, number, number, number];
  const H = height / T;
  return g.reshape(g.transpose(g.reshape(video, [B, C, T, H * W]), [0, 2, 1, 3]), [B * T, C, H, W]);
};

export const unchanged: Formulations['videoOf'] = (_, frames) => frames;

export const whole: Formulations['perPlace'] = (_, x, __, layer) => layer(x);

/** Bytes of a frame's values that don't stay in a processor's cache. */
const LARGE_FRAME = 2 ** 23;
/** Bytes of a frame's part in a strip. */
const STRIP = 2 ** 19;

/**
 * Large frames in strips of some rows of all frames, whose results are the same. A convolution over the frames reads each row three times
 * and more: here from the processor's cache, and else from memory.
 */
export const strips: Formulations['perPlace'] = (g, x, T, layer) => {
  const [B, C, height, W] = x.shape as [number, number, number, number];
  const H = height / T;
  const rowBytes = 4 * C * W;
  if (B > 1 || H * rowBytes < LARGE_FRAME) return layer(x);
  let rows = Math.max(1, Math.floor(STRIP / rowBytes));
  while (H % rows > 0) rows--;
  const swap = (value: typeof x, shape: readonly number[]) =>
    g.transpose(g.reshape(value, [...shape, rows * W]), [1, 0, 2]);
  const inStrips = g.reshape(swap(x, [C * T, H / rows]), [H / rows, C, T * rows, W]);
  const y = oneByOne(g, inStrips, layer);
  const out = y.shape[1]!;
  return g.reshape(swap(y, [H / rows, out * T]), [1, out, height, W]);
};
