import type { Still } from '../model.ts';

const SIZE = 224; // pixels, what CLIP takes

/**
 * The picture as CLIP sees it: blurred against aliasing, then bicubic to 224×224 with the corners aligned (diffusers'
 * `_resize_with_antialiasing`, a copy of kornia's resize).
 * @returns [3, 224, 224], about [−1, 1]: bicubic interpolation may overshoot
 */
export function clipResize({ data, width, height }: Still): Float32Array {
  const out = new Float32Array(3 * SIZE * SIZE);
  const across = { blur: gaussian(width / SIZE), taps: bicubicTaps(width) };
  const down = { blur: gaussian(height / SIZE), taps: bicubicTaps(height) };
  for (let channel = 0; channel < 3; channel++) {
    const plane = Float32Array.from({ length: width * height }, (_, i) => (data[i * 3 + channel]! / 255) * 2 - 1);
    const blurredAcross = convolve(plane, width, 1, height, width, across.blur);
    const blurred = convolve(blurredAcross, height, width, width, 1, down.blur);
    const narrow = interpolate(blurred, { count: height, stride: width, step: 1 }, across.taps); // [height, 224]
    const square = interpolate(narrow, { count: SIZE, stride: 1, step: SIZE }, down.taps); // [224 columns, 224 rows]
    for (let y = 0; y < SIZE; y++)
      for (let x = 0; x < SIZE; x++) out[(channel * SIZE + y) * SIZE + x] = square[x * SIZE + y]!;
  }
  return out;
}

/** Weights of a blur for shrinking by `factor`; where the picture grows it is the identity. */
function gaussian(factor: number): Float32Array {
  const sigma = Math.max((factor - 1) / 2, 0.001);
  let size = Math.trunc(Math.max(4 * sigma, 3));
  if (size % 2 === 0) size++;
  const weights = Array.from({ length: size }, (_, i) => Math.exp(-((i - (size >> 1)) ** 2) / (2 * sigma ** 2)));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return Float32Array.from(weights, (weight) => weight / sum);
}

/** Along lines of `length` values `step` apart, `lines` of them `stride` apart; the border is mirrored, its own value not repeated. */
function convolve(
  source: Float32Array,
  length: number,
  step: number,
  lines: number,
  stride: number,
  weights: Float32Array,
): Float32Array {
  const out = new Float32Array(source.length);
  const reach = weights.length >> 1;
  const mirror = (i: number) => (i < 0 ? -i : i >= length ? 2 * (length - 1) - i : i);
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < length; i++) {
      let sum = 0;
      for (let k = 0; k < weights.length; k++)
        sum += weights[k]! * source[line * stride + mirror(i + k - reach) * step]!;
      out[line * stride + i * step] = sum;
    }
  }
  return out;
}

interface Taps {
  /** four source positions for each of the 224 outputs */
  index: Int32Array;
  weight: Float32Array;
}

/** Bicubic, a = −0.75, corners aligned; beyond the edge the edge repeats. */
function bicubicTaps(size: number): Taps {
  const a = -0.75;
  const near = (t: number) => ((a + 2) * t - (a + 3)) * t * t + 1;
  const far = (t: number) => ((a * t - 5 * a) * t + 8 * a) * t - 4 * a;
  const index = new Int32Array(SIZE * 4);
  const weight = new Float32Array(SIZE * 4);
  for (let o = 0; o < SIZE; o++) {
    const position = (o * (size - 1)) / (SIZE - 1);
    const first = Math.floor(position);
    const t = position - first;
    weight.set([far(t + 1), near(t), near(1 - t), far(2 - t)], o * 4);
    for (let k = 0; k < 4; k++) index[o * 4 + k] = Math.min(Math.max(first - 1 + k, 0), size - 1);
  }
  return { index, weight };
}

/** `count` lines, `stride` apart, of values `step` apart, each brought to 224 values: [count, 224]. */
function interpolate(
  source: Float32Array,
  { count, stride, step }: { count: number; stride: number; step: number },
  { index, weight }: Taps,
): Float32Array {
  const out = new Float32Array(count * SIZE);
  for (let line = 0; line < count; line++) {
    for (let o = 0; o < SIZE; o++) {
      let sum = 0;
      for (let k = o * 4; k < o * 4 + 4; k++) sum += weight[k]! * source[line * stride + index[k]! * step]!;
      out[line * SIZE + o] = sum;
    }
  }
  return out;
}
