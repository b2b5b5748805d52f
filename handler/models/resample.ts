import type { Still } from './model.ts';

/** A part of a still, in pixels and fractions of them. */
export interface Window {
  x: number;
  y: number;
  width: number;
  height: number;
}

/** resample.wat, assembled: `await (await wabt()).parseWat('resample.wat', text, { simd: true }).toBinary({})`. */
export const ASSEMBLED =
  'AGFzbQEAAAABEgJgBn9/f39/fwBgBX9/f39/AAMDAgABBQMBAAEHGgMGbWVtb3J5AgAEZG93bgAABmFjcm9zcwABCrMDApgCAgJ/B3sDQEGAAf0RIQsgCyEMIAshDSALIQ4gACEGQQAhBwNAIAIgB0ECdGr9CQIAIQggBv0ABAAhCSAGIAFqIQYgCSAG/QAEAP0NABABEQISAxMEFAUVBhYHFyEKIAsgCCAK/YkB/boB/a4BIQsgDCAIIAr9igH9ugH9rgEhDCAJIAb9AAQA/Q0IGAkZChoLGwwcDR0OHg8fIQogDSAIIAr9iQH9ugH9rgEhDSAOIAggCv2KAf26Af2uASEOIAYgAWohBiAHQQFqIQcgByADSQ0ACyAEIAtBCP2sASAMQQj9rAH9hQH9CwQAIAQgDUEI/awBIA5BCP2sAf2FAf0LBBAgAEEQaiEAIARBIGohBCAEIAVJDQALC5YBAgJ/AXsDQEGAgCD9ESEHIAAoAgAhBSACIQYDQCAHIAH9CQIAIAX9AAQAIAf9DQABBgcCAwgJBAUKCwwNDg/9ugH9rgEhByABQQRqIQEgBUEMaiEFIAZBAWshBiAGDQALIAdBFP2sASEHIAcgB/2FASEHIAMgByAH/Wb9WgIAACAAQQRqIQAgA0EDaiEDIAMgBEkNAAsL';

// One memory for all calls, as large as the largest still needed. A call is synchronous, so calls do not share it at one time.
const passes = new WebAssembly.Instance(new WebAssembly.Module(Buffer.from(ASSEMBLED, 'base64'))).exports as {
  memory: WebAssembly.Memory;
  down(source: number, stride: number, weights: number, pairs: number, line: number, end: number): void;
  across(starts: number, weights: number, pairs: number, out: number, end: number): void;
};

const SPARE = 32; // bytes after each part of the memory: how far the passes read and write past its end

/**
 * The window as W×H rgb24, by separable cubic convolution (Keys 1981, doi:10.1109/TASSP.1981.1163711, a = −½: Catmull–Rom). Where it shrinks
 * the kernel is widened against aliasing. Integers make every machine's pixels the same. Some 1 ms for 512×288.
 */
export function resampleWindow(still: Still, window: Window, W: number, H: number): Uint8Array {
  const across = taps(W, window.x, window.width, still.width);
  const down = taps(H, window.y, window.height, still.height);
  const row = still.width * 3;
  const top = down.start[0]!;
  const rows = down.start[H - 1]! + down.count - top;
  const left = across.start[0]!;
  const samples = (across.start[W - 1]! + across.count - left) * 3;

  const { memory } = passes;
  let used = 0;
  const allocate = (bytes: number) => {
    const address = used;
    used += Math.ceil((bytes + SPARE) / 16) * 16;
    return address;
  };
  const source = allocate(rows * row);
  const line = allocate(samples * 2);
  const out = allocate(W * H * 3);
  const starts = allocate(W * 4);
  const acrossWeights = allocate(across.weights.byteLength);
  const downWeights = allocate(down.weights.byteLength);
  if (used > memory.buffer.byteLength) memory.grow(Math.ceil((used - memory.buffer.byteLength) / 65_536));

  new Uint8Array(memory.buffer).set(still.data.subarray(top * row, (top + rows) * row), source);
  new Int32Array(memory.buffer, starts).set(across.start.map((x) => line + (x - left) * 6));
  new Int16Array(memory.buffer, acrossWeights).set(across.weights);
  new Int16Array(memory.buffer, downWeights).set(down.weights);
  for (let y = 0; y < H; y++) {
    const from = source + (down.start[y]! - top) * row + left * 3;
    passes.down(from, row, downWeights + y * down.count * 2, down.count / 2, line, line + samples * 2);
    passes.across(starts, acrossWeights, across.count / 2, out + y * W * 3, out + (y + 1) * W * 3);
  }
  return new Uint8Array(memory.buffer, out, W * H * 3).slice();
}

const ONE = 2 ** 14;

/**
 * Weights that sample [from, from + length) of `size` source pixels at n points; beyond the edge the edge pixel repeats.
 * @returns for each point its first source pixel, and `count` weights that sum to ONE up to invisible rounding; `count` is even, and where
 * the still has fewer pixels the last weight is 0
 */
function taps(n: number, from: number, length: number, size: number) {
  const step = length / n;
  const widening = Math.max(step, 1);
  const reach = Math.ceil(4 * widening);
  const count = 2 * Math.ceil(Math.min(size, reach) / 2);
  const start = new Int32Array(n);
  const weights = new Int16Array(n * count);
  const exact = new Float64Array(count);
  for (let i = 0; i < n; i++) {
    const centre = from + (i + 0.5) * step - 0.5;
    const first = Math.ceil(centre - 2 * widening);
    const base = Math.max(0, Math.min(first, size - count));
    exact.fill(0);
    let sum = 0;
    for (let j = first; j < first + reach; j++) {
      const weight = catmullRom(Math.abs(j - centre) / widening);
      const inside = Math.min(Math.max(j, 0), size - 1) - base;
      exact[inside] = exact[inside]! + weight;
      sum += weight;
    }
    for (let k = 0; k < count; k++) weights[i * count + k] = Math.round((exact[k]! / sum) * ONE);
    start[i] = base;
  }
  return { count, start, weights };
}

function catmullRom(x: number): number {
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2) return ((-0.5 * x + 2.5) * x - 4) * x + 2;
  return 0;
}
