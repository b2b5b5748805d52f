/**
 * Peak signal-to-noise ratio in dB. The peak is twice the largest expected value. NaN if a value is.
 * @throws Error: the lengths differ
 */
export function psnr(got: Float32Array, expected: Float32Array): number {
  if (got.length !== expected.length) throw new Error(`${got.length} values, not ${expected.length}`);
  let squares = 0;
  let largest = 0;
  for (let i = 0; i < got.length; i++) {
    squares += (got[i]! - expected[i]!) ** 2;
    largest = Math.max(largest, Math.abs(expected[i]!));
  }
  return 20 * Math.log10((2 * largest) / Math.sqrt(squares / got.length));
}
