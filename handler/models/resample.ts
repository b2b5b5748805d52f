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
 * alias. Down first, a line at a time, then across: a few taps an output pixel, some 4 ms for 512×288.
 */
export function resampleWindow(still: Still, window: Window, W: number, H: number): Uint8Array {
  const across = taps(W, window.x, window.width, still.width);
  const down = taps(H, window.y, window.height, still.height);
  const left = across.start[0]!;
  const line = new Float64Array((across.start[W - 1]! + across.count - left) * 3); // Float32 would be converted at every access
  const out = new Uint8ClampedArray(W * H * 3); // clamps, and rounds half to even
  for (let y = 0; y < H; y++) {
    weighRows(still, left, down, y, line);
    weighPixels(line, left, across, out, y * W * 3);
  }
  return new Uint8Array(out.buffer);
}

/** One line between the still's lines: `line` becomes what output line y is made of, from the pixel `left` on. */
function weighRows(
  { data, width }: Still,
  left: number,
  { count, start, weights }: Taps,
  y: number,
  line: Float64Array,
) {
  const row = width * 3;
  const at = (j: number) => (start[y]! + j) * row + left * 3;
  const weight = (j: number) => weights[y * count + j]!;
  line.fill(0);
  let j = 0;
  for (; j + 4 <= count; j += 4) {
    // Four at once, as `line` is then read and written a quarter as often.
    const [p, q, r, s] = [at(j), at(j + 1), at(j + 2), at(j + 3)];
    const [a, b, c, d] = [weight(j), weight(j + 1), weight(j + 2), weight(j + 3)];
    for (let i = 0; i < line.length; i++) {
      line[i] = line[i]! + a * data[p + i]! + b * data[q + i]! + c * data[r + i]! + d * data[s + i]!;
    }
  }
  for (; j < count; j++) {
    const p = at(j);
    const a = weight(j);
    for (let i = 0; i < line.length; i++) line[i] = line[i]! + a * data[p + i]!;
  }
}

/** The output line at `o`, from a line that begins with the still's pixel `left`. */
function weighPixels(
  line: Float64Array,
  left: number,
  { count, start, weights }: Taps,
  out: Uint8ClampedArray,
  o: number,
) {
  for (let x = 0; x < start.length; x++) {
    let from = (start[x]! - left) * 3;
    let r = 0;
    let g = 0;
    let b = 0;
    for (let j = x * count; j < (x + 1) * count; j++) {
      const weight = weights[j]!;
      r += weight * line[from]!;
      g += weight * line[from + 1]!;
      b += weight * line[from + 2]!;
      from += 3;
    }
    out[o++] = r;
    out[o++] = g;
    out[o++] = b;
  }
}

/** For each of n outputs: the first source pixel, and `count` weights that sum to 1. */
interface Taps {
  count: number;
  start: Int32Array;
  weights: Float64Array;
}

/** Weights that sample [from, from + length) of `size` source pixels at n points; beyond the edge the edge pixel repeats. */
function taps(n: number, from: number, length: number, size: number): Taps {
  const step = length / n;
  const widening = Math.max(step, 1);
  const count = Math.min(size, Math.ceil(4 * widening));
  const start = new Int32Array(n);
  const weights = new Float64Array(n * count);
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
