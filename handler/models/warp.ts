import type { Still } from './model.ts';

/** How a frame samples the still: pixel (x, y) comes from `(x, y)·scale + offset + depth·((x, y)·depthScale + depthOffset)`, in pixels. */
export interface Warp {
  scale: number;
  offset: readonly [x: number, y: number];
  depthScale: number;
  depthOffset: readonly [x: number, y: number];
}

/** warp.wat, assembled: `await (await wabt()).parseWat('warp.wat', text, { simd: true }).toBinary({})`. */
export const ASSEMBLED =
  'AGFzbQEAAAABEgFgDn9/fX1/f39/fX19fX19AAMCAQAFAwEAAQcQAgZtZW1vcnkCAANyb3cAAAqZAwGWAwQBfwJ9BX8EewNAIA6yIQ8gBSoCACEQQwAAAEJDAAAAACACIA8gCJQgCZIgECAPIAqUIAuSlJKWl5SQ/AAhEUMAAABCQwAAAAAgAyAMIBAgDZSSlpeUkPwAIRIgBCASQR9xQQV0IBFBH3FyQQZ0aiEUIAAgEkEFdiABbGogEUEFdkECdGogAUEEamshE/0MAAAAAAAAAAAAAAAAAAAAACEY/QwAAAAAAAAAAAAAAAAAAAAAIRlBBCEVA0AgFP0ABAAhFiAT/QAEACEXIBcgF/0NAAQIDAEFCQ0CBgoOAwcLDyEXIBggFiAX/YkB/boB/a4BIRggGSAWIBf9igH9ugH9rgEhGSAUQRBqIRQgEyABaiETIBVBAWshFSAVDQALIBggGf0NAAECAwgJCgsQERITGBkaGyAYIBn9DQQFBgcMDQ4PFBUWFxwdHh/9rgEhGCAYQYDAAP0R/a4BQQ79rAEhGCAYIBj9hQEhGCAGIBggGP1m/VoCAAAgBUEEaiEFIAZBA2ohBiAOQQFqIQ4gDiAHSQ0ACws=';

const program = new WebAssembly.Module(Buffer.from(ASSEMBLED, 'base64'));

interface Exports {
  memory: WebAssembly.Memory;
  /** Of one frame row; the four pairs of numbers of a warp are for x and, times the row's y, for y. */
  row(
    ...args: [
      ...[source: number, stride: number, maxX: number, maxY: number, weights: number],
      ...[depth: number, out: number, width: number],
      ...[scale: number, offset: number, depthScale: number, depthOffset: number, y: number, depthY: number],
    ]
  ): void;
}

/** Pixels around the source: the kernel reaches 1 before and 2 after. */
const BORDER = 2;

/**
 * Prepares a still for warping. Samples are cubic (Keys 1981, doi:10.1109/TASSP.1981.1163711, a = −½: Catmull–Rom) at 32nds of a pixel, so a
 * warp of scale 1 returns the still itself. Samples beyond the edge repeat it.
 * @param depth of each pixel of the still, any unit: warps scale it
 * @returns makes one frame of the still's size, rgb24
 */
export function createWarp({ data, width, height }: Still, depth: Float32Array): (warp: Warp) => Uint8Array {
  const stride = (width + 2 * BORDER) * 4;
  const weights = align(stride * (height + 2 * BORDER));
  const depths = weights + WEIGHTS.byteLength;
  const out = align(depths + depth.byteLength);
  const bytes = out + width * height * 3 + 16;

  const { memory, row } = new WebAssembly.Instance(program).exports as unknown as Exports;
  memory.grow(Math.ceil(bytes / 65_536) - 1);
  const pixels = new Uint8Array(memory.buffer);
  pixels.set(new Uint8Array(WEIGHTS.buffer), weights);
  new Float32Array(memory.buffer, depths).set(depth);
  for (let y = -BORDER, to = 0; y < height + BORDER; y++) {
    const row = Math.min(Math.max(y, 0), height - 1) * width;
    for (let x = -BORDER; x < width + BORDER; x++, to += 4) {
      const from = (row + Math.min(Math.max(x, 0), width - 1)) * 3;
      pixels[to] = data[from]!;
      pixels[to + 1] = data[from + 1]!;
      pixels[to + 2] = data[from + 2]!;
    }
  }
  const origin = BORDER * stride + BORDER * 4;

  return ({ scale, offset, depthScale, depthOffset }) => {
    for (let y = 0; y < height; y++) {
      const across = [scale, offset[0], depthScale, depthOffset[0]] as const;
      const down = [y * scale + offset[1], y * depthScale + depthOffset[1]] as const;
      const [from, to] = [depths + y * width * 4, out + y * width * 3];
      row(origin, stride, width - 1, height - 1, weights, from, to, width, ...across, ...down);
    }
    return pixels.slice(out, out + width * height * 3);
  };
}

const align = (address: number) => Math.ceil(address / 16) * 16;

/** For each fraction (v, u) in 32nds 4 rows of 4 weights, each row twice, parts of 2^14 that sum to 2^14. */
const WEIGHTS = (() => {
  const ONE = 2 ** 14;
  const table = new Int16Array(32 * 32 * 32);
  const taps = (fraction: number) => [-1, 0, 1, 2].map((i) => catmullRom(Math.abs(i - fraction / 32)));
  for (let v = 0; v < 32; v++)
    for (let u = 0; u < 32; u++) {
      const exact = taps(v).flatMap((down) => taps(u).map((across) => down * across * ONE));
      const rounded = exact.map(Math.round);
      const nearest = 4 * (1 + (v >> 4)) + 1 + (u >> 4); // the largest weight takes what rounding leaves
      rounded[nearest] = rounded[nearest]! + ONE - rounded.reduce((sum, weight) => sum + weight, 0);
      for (let i = 0; i < 16; i++) {
        const at = ((v * 32 + u) * 4 + (i >> 2)) * 8 + (i & 3);
        table[at] = rounded[i]!;
        table[at + 4] = rounded[i]!;
      }
    }
  return table;
})();

function catmullRom(x: number): number {
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2) return ((-0.5 * x + 2.5) * x - 4) * x + 2;
  return 0;
}
