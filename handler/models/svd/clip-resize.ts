import type { Still } from '../model.ts';

/** Pixels of a side of what CLIP takes. */
export const CLIP_SIZE = 224;

/**
 * The picture as CLIP takes it: blurred against aliasing, then bicubic to 224×224 with the corners aligned (diffusers'
 * `_resize_with_antialiasing`, a copy of kornia's resize).
 * @returns [3, 224, 224], about [−1, 1]: bicubic interpolation may overshoot
 */
export function clipResize({ data, width, height }: Still): Float32Array {
  const filters = [blur(width), blur(height), bicubic(width), bicubic(height)];
  const out = new Float32Array(3 * CLIP_SIZE * CLIP_SIZE);
  for (let channel = 0; channel < 3; channel++) {
    let plane = Float32Array.from({ length: width * height }, (_, i) => (data[i * 3 + channel]! / 255) * 2 - 1);
    for (const filter of filters) plane = filterRows(plane, filter); // along x, y, x and y, as each turns the plane
    out.set(plane, channel * CLIP_SIZE * CLIP_SIZE);
  }
  return out;
}

/** A linear map from rows of `length` values to rows of as many as there are index / taps. */
interface Filter {
  length: number;
  /** source values that each output weighs */
  taps: number;
  /** their positions and weights, output by output */
  index: Int32Array;
  weight: Float32Array;
}

/** Filters each row of [rows, length]. @returns the plane turned: [outputs, rows] */
function filterRows(plane: Float32Array, { length, taps, index, weight }: Filter): Float32Array<ArrayBuffer> {
  const [rows, outputs] = [plane.length / length, index.length / taps];
  const out = new Float32Array(outputs * rows);
  for (let row = 0; row < rows; row++) {
    for (let o = 0; o < outputs; o++) {
      let sum = 0;
      for (let k = o * taps; k < (o + 1) * taps; k++) sum += weight[k]! * plane[row * length + index[k]!]!;
      out[o * rows + row] = sum;
    }
  }
  return out;
}

function filter(length: number, outputs: number, taps: number): Filter {
  return { length, taps, index: new Int32Array(outputs * taps), weight: new Float32Array(outputs * taps) };
}

/** A Gaussian blur that suits shrinking to 224; of a smaller picture the identity. The border is mirrored, its own value not repeated. */
function blur(length: number): Filter {
  const sigma = Math.max((length / CLIP_SIZE - 1) / 2, 0.001);
  const taps = Math.trunc(Math.max(4 * sigma, 3)) | 1; // odd
  const reach = taps >> 1;
  const gaussian = Array.from({ length: taps }, (_, k) => Math.exp(-((k - reach) ** 2) / (2 * sigma ** 2)));
  const sum = gaussian.reduce((total, weight) => total + weight, 0);
  const mirror = (i: number) => (i < 0 ? -i : i >= length ? 2 * (length - 1) - i : i);
  const result = filter(length, length, taps);
  for (let i = 0; i < length; i++) {
    for (let k = 0; k < taps; k++) result.index[i * taps + k] = mirror(i + k - reach);
    result.weight.set(
      gaussian.map((weight) => weight / sum),
      i * taps,
    );
  }
  return result;
}

/** Bicubic interpolation to 224 values, a = −0.75, corners aligned; beyond the edge the edge repeats. */
function bicubic(length: number): Filter {
  const a = -0.75;
  const near = (t: number) => ((a + 2) * t - (a + 3)) * t * t + 1;
  const far = (t: number) => ((a * t - 5 * a) * t + 8 * a) * t - 4 * a;
  const result = filter(length, CLIP_SIZE, 4);
  for (let o = 0; o < CLIP_SIZE; o++) {
    const position = (o * (length - 1)) / (CLIP_SIZE - 1);
    const first = Math.floor(position);
    const t = position - first;
    result.weight.set([far(t + 1), near(t), near(1 - t), far(2 - t)], o * 4);
    for (let k = 0; k < 4; k++) result.index[o * 4 + k] = Math.min(Math.max(first - 1 + k, 0), length - 1);
  }
  return result;
}
