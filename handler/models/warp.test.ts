import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import wabt from 'wabt';
import { paint } from '../../test/support/paint.ts';
import { generator } from '../sampling/torch-random.ts';
import type { Still } from './model.ts';
import { ASSEMBLED, createWarp, type Warp } from './warp.ts';

function random(width: number, height: number): Still {
  const noise = generator(width * 1000 + height).randn(width * height * 3);
  return paint(width, height, (x, y, c) => Math.min(255, Math.max(0, 128 + 90 * noise[(y * width + x) * 3 + c]!)));
}

const STILL: Warp = { scale: 1, offset: [0, 0], depthScale: 0, depthOffset: [0, 0] };
const flat = ({ width, height }: Still) => new Float32Array(width * height);

test.each([
  [70, 50],
  [5, 9],
  [3, 2],
  [1, 1],
  [1, 40],
])('a warp without a move returns a %i×%i still unchanged', (width, height) => {
  const still = random(width, height);
  expect(createWarp(still, flat(still))(STILL)).toEqual(still.data);
  expect(createWarp(still, flat(still).fill(0.5))(STILL)).toEqual(still.data);
});

test('a move by whole pixels is a crop, whose samples beyond the edge repeat it', () => {
  const still = random(70, 50);
  const warp = createWarp(still, flat(still));
  for (const [dx, dy] of [
    [5, 3],
    [-4, 7],
    [0, -20],
    [1000, -1000],
  ] as const) {
    const at = (i: number, size: number) => Math.min(Math.max(i, 0), size - 1);
    const moved = paint(70, 50, (x, y, c) => still.data[(at(y + dy, 50) * 70 + at(x + dx, 70)) * 3 + c]!);
    expect(warp({ ...STILL, offset: [dx, dy] })).toEqual(moved.data);
  }
});

test('depth moves each pixel by itself', () => {
  const still = random(64, 32);
  const depth = Float32Array.from({ length: 64 * 32 }, (_, i) => (i % 64 < 32 ? 0 : 0.5));
  const out = createWarp(still, depth)({ ...STILL, depthOffset: [6, -4] });
  const moved = paint(64, 32, (x, y, c) => {
    const near = x >= 32;
    const [u, v] = [near ? Math.min(63, x + 3) : x, near ? Math.max(0, y - 2) : y];
    return still.data[(v * 64 + u) * 3 + c]!;
  });
  expect(out).toEqual(moved.data);
});

const warps: Warp[] = [
  { scale: 0.75, offset: [8.25, 5.5], depthScale: 0, depthOffset: [0, 0] },
  { scale: 0.875, offset: [3.125, -2.0625], depthScale: -0.25, depthOffset: [4, 8] },
  { scale: 1, offset: [0.5, 0.5], depthScale: 0, depthOffset: [2.5, 0] },
  { scale: 1.25, offset: [-9, -9], depthScale: 0.5, depthOffset: [-8, -4] },
];

test('every warp of a uniform picture is uniform', () => {
  const still = paint(70, 50, (_x, _y, c) => [255, 1, 130][c]!);
  const depth = Float32Array.from({ length: 70 * 50 }, (_, i) => Math.sin(i));
  for (const warp of warps) expect(createWarp(still, depth)(warp)).toEqual(still.data);
});

/** One channel by the definition: Keys' cubic with a = −½ over 4×4 pixels; the edge repeats. */
function definition({ data, width, height }: Still, u: number, v: number, c: number): number {
  const weight = (d: number) =>
    d < 1 ? 1.5 * d ** 3 - 2.5 * d ** 2 + 1 : d < 2 ? -0.5 * d ** 3 + 2.5 * d ** 2 - 4 * d + 2 : 0;
  const at = (i: number, size: number) => Math.min(Math.max(i, 0), size - 1);
  const [x, y] = [at(u, width), at(v, height)];
  let sum = 0;
  for (let j = Math.floor(y) - 1; j <= Math.floor(y) + 2; j++)
    for (let i = Math.floor(x) - 1; i <= Math.floor(x) + 2; i++)
      sum += weight(Math.abs(i - x)) * weight(Math.abs(j - y)) * data[(at(j, height) * width + at(i, width)) * 3 + c]!;
  return Math.min(255, Math.max(0, sum));
}

test.each([
  [72, 48],
  [71, 33],
  [3, 2],
  [1, 1],
])('every pixel of a warped %i×%i still is within one level of the definition', (width, height) => {
  const still = random(width, height);
  // Depths and warps are such that every place is a whole number of 32nds.
  const depth = Float32Array.from({ length: width * height }, (_, i) => (((i * 7) % 5) - 2) / 4);
  const makeFrame = createWarp(still, depth);
  for (const { scale, offset, depthScale, depthOffset } of warps) {
    const out = makeFrame({ scale, offset, depthScale, depthOffset });
    let worst = 0;
    for (let i = 0; i < out.length; i++) {
      const [x, y] = [Math.floor(i / 3) % width, Math.floor(i / 3 / width)];
      const d = depth[y * width + x]!;
      const place = (p: number, c: 0 | 1) => {
        const exact = p * scale + offset[c] + d * (p * depthScale + depthOffset[c]);
        return Math.round(exact * 32) / 32;
      };
      worst = Math.max(worst, Math.abs(out[i]! - definition(still, place(x, 0), place(y, 1), i % 3)));
    }
    expect(worst).toBeLessThanOrEqual(1);
  }
});

test('a frame is not changed by the next one', () => {
  const still = random(64, 64);
  const warp = createWarp(still, flat(still));
  const first = warp(STILL);
  const copy = first.slice();
  warp(warps[0]!);
  expect(first).toEqual(copy);
});

test('the embedded WebAssembly is the assembled warp.wat', async () => {
  const text = await readFile(new URL('warp.wat', import.meta.url), 'utf8');
  const { buffer } = (await wabt()).parseWat('warp.wat', text, { simd: true }).toBinary({});
  expect(ASSEMBLED).toBe(Buffer.from(buffer).toString('base64'));
});
