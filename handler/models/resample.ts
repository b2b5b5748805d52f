import type { Still } from './model.ts';

/** A part of a still, in pixels, at sub-pixel position and size. */
export interface Window {
  x: number;
  y: number;
  width: number;
  height: number;
}

/**
 * The window as W×H rgb24, by separable Catmull–Rom interpolation (Keys 1981, a = −½), widened where it shrinks so that it does not
 * alias. Rows first, then columns: a few taps an output pixel, some 12 ms for 512×288.
 */
export function resampleWindow(still: Still, window: Window, W: number, H: number): Uint8Array {
  const across = taps(W, window.x, window.width, still.width);
  const down = taps(H, window.y, window.height, still.height);
  const top = down.start[0]!;
  const rows = down.start[H - 1]! + down.count - top;
  const narrow = resampleRows(still, top, rows, across, W);

  const line = W * 3;
  const out = new Uint8ClampedArray(H * line);
  const sum = new Float32Array(line);
  for (let y = 0; y < H; y++) {
    sum.fill(0);
    for (let j = 0; j < down.count; j++) {
      const weight = down.weights[y * down.count + j]!;
      const from = (down.start[y]! - top + j) * line;
      for (let i = 0; i < line; i++) sum[i] = sum[i]! + weight * narrow[from + i]!;
    }
    out.set(sum, y * line); // a Uint8ClampedArray clamps, and rounds half to even
  }
  return new Uint8Array(out.buffer);
}

/** `rows` rows from `top`, each brought to W pixels. */
function resampleRows({ data, width }: Still, top: number, rows: number, { count, start, weights }: Taps, W: number) {
  const out = new Float32Array(rows * W * 3);
  let o = 0;
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < W; x++) {
      let from = ((top + y) * width + start[x]!) * 3;
      let r = 0;
      let g = 0;
      let b = 0;
      for (let j = x * count; j < (x + 1) * count; j++) {
        const weight = weights[j]!;
        r += weight * data[from]!;
        g += weight * data[from + 1]!;
        b += weight * data[from + 2]!;
        from += 3;
      }
      out[o++] = r;
      out[o++] = g;
      out[o++] = b;
    }
  }
  return out;
}

/** For each of n outputs: the first source pixel, and `count` weights that sum to 1. */
interface Taps {
  count: number;
  start: Int32Array;
  weights: Float32Array;
}

/** Weights that sample [from, from + length) of `size` source pixels at n points; beyond the edge the edge pixel repeats. */
function taps(n: number, from: number, length: number, size: number): Taps {
  const step = length / n;
  const widening = Math.max(step, 1);
  const count = Math.min(size, Math.ceil(4 * widening) + 1);
  const start = new Int32Array(n);
  const weights = new Float32Array(n * count);
  for (let i = 0; i < n; i++) {
    const centre = from + (i + 0.5) * step - 0.5;
    const first = Math.ceil(centre - 2 * widening);
    const base = Math.min(Math.max(first, 0), size - count);
    let sum = 0;
    for (let j = first; j < centre + 2 * widening; j++) {
      const weight = catmullRom(Math.abs(j - centre) / widening);
      const inside = Math.min(Math.max(j, base), base + count - 1);
      weights[i * count + inside - base] = weights[i * count + inside - base]! + weight;
      sum += weight;
    }
    for (let j = i * count; j < (i + 1) * count; j++) weights[j] = weights[j]! / sum;
    start[i] = base;
  }
  return { count, start, weights };
}

function catmullRom(x: number): number {
  if (x < 1) return 1.5 * x ** 3 - 2.5 * x ** 2 + 1;
  if (x < 2) return -0.5 * x ** 3 + 2.5 * x ** 2 - 4 * x + 2;
  return 0;
}
