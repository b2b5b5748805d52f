/** Pixels as the networks take and give them. */

/** rgb24 to [3, H·W] in [−1, 1], rounded to float32 where torch rounds */
export function toPlanes(rgb: Uint8Array): Float32Array {
  const pixels = rgb.length / 3;
  const planes = new Float32Array(rgb.length);
  for (let i = 0; i < pixels; i++)
    for (let c = 0; c < 3; c++) planes[c * pixels + i] = Math.fround(rgb[i * 3 + c]! / 255) * 2 - 1;
  return planes;
}

/** [3, H·W] in [0, 1] to rgb24, rounded half to even as diffusers does */
export function toBytes(planes: Float32Array): Uint8Array {
  const pixels = planes.length / 3;
  const rgb = new Uint8ClampedArray(planes.length);
  for (let i = 0; i < pixels; i++)
    for (let c = 0; c < 3; c++) rgb[i * 3 + c] = Math.fround(planes[c * pixels + i]! * 255);
  return new Uint8Array(rgb.buffer);
}

/** [3, H·W] in [−1, 1] to what CLIP takes: each channel by its mean and standard deviation in [0, 1] */
export function standardize(planes: Float32Array, mean: readonly number[], std: readonly number[]): Float32Array {
  return planes.map((value, i) => {
    const channel = Math.floor((3 * i) / planes.length);
    return ((value + 1) / 2 - mean[channel]!) / std[channel]!;
  });
}
