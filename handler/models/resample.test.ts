import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import wabt from 'wabt';
import { generator } from '../sampling/torch-random.ts';
import type { Still } from './model.ts';
import { ASSEMBLED, resampleWindow, type Window } from './resample.ts';

function paint(width: number, height: number, value: (x: number, y: number, c: number) => number): Still {
  const data = new Uint8Array(width * height * 3);
  for (let i = 0; i < data.length; i++) {
    const pixel = Math.floor(i / 3);
    data[i] = value(pixel % width, Math.floor(pixel / width), i % 3);
  }
  return { data, width, height };
}

const random = (width: number, height: number): Still => ({
  data: Uint8Array.from(generator(7).randn(width * height * 3), (value) => 128 + 60 * value),
  width,
  height,
});

const whole = ({ width, height }: Still): Window => ({ x: 0, y: 0, width, height });

const windows: Window[] = [
  { x: 0, y: 0, width: 70, height: 50 },
  { x: 3.3, y: 7.9, width: 20.7, height: 14.8 },
  { x: 0, y: 0, width: 1, height: 1 },
  { x: 69, y: 49, width: 1, height: 1 },
  { x: 30.5, y: 0, width: 39.5, height: 50 },
];

test('the whole still resampled to its own size is unchanged', () => {
  for (const [width, height] of [
    [70, 50],
    [5, 9],
    [3, 2],
    [1, 1],
  ] as const) {
    const still = random(width, height);
    expect(resampleWindow(still, whole(still), width, height)).toEqual(still.data);
  }
});

test('a window at whole pixels and of its own size is a crop', () => {
  const still = random(70, 50);
  for (const [x, y, width, height] of [
    [5, 3, 40, 30],
    [0, 0, 20, 20],
    [50, 30, 20, 20],
    [33, 17, 1, 1],
  ] as const) {
    const crop = paint(width, height, (i, j, c) => still.data[((y + j) * 70 + x + i) * 3 + c]!);
    expect(resampleWindow(still, { x, y, width, height }, width, height)).toEqual(crop.data);
  }
});

test('every window of a uniform picture is uniform', () => {
  const colour = [255, 1, 130];
  const still = paint(70, 50, (_x, _y, c) => colour[c]!);
  for (const window of windows) {
    for (const [W, H] of [
      [64, 64],
      [7, 5],
      [1, 1],
      [200, 3],
    ] as const) {
      const expected = paint(W, H, (_x, _y, c) => colour[c]!).data;
      expect(resampleWindow(still, window, W, H)).toEqual(expected);
    }
  }
});

test('a linear gradient stays linear at any sub-pixel position and size', () => {
  const still = paint(80, 60, (x, y, c) => (c === 0 ? 3 * x : c === 1 ? 4 * y : 240 - 3 * x));
  for (const window of [
    { x: 10.3, y: 12.6, width: 37.2, height: 21.9 }, // larger
    { x: 8.9, y: 9.1, width: 61.3, height: 41.7 }, // smaller
  ]) {
    const [W, H] = [50, 33];
    const out = resampleWindow(still, window, W, H);
    for (let y = 0; y < H; y++) {
      for (let x = 0; x < W; x++) {
        const at = {
          x: window.x + ((x + 0.5) * window.width) / W - 0.5,
          y: window.y + ((y + 0.5) * window.height) / H - 0.5,
        };
        const expected = [3 * at.x, 4 * at.y, 240 - 3 * at.x];
        for (let c = 0; c < 3; c++) expect(Math.abs(out[(y * W + x) * 3 + c]! - expected[c]!)).toBeLessThan(0.75);
      }
    }
  }
});

test('enlarging interpolates: it keeps the pixels and is smooth between them', () => {
  const still = random(20, 16);
  const [W, H] = [60, 48]; // the middle of each 3×3 block is a source pixel
  const out = resampleWindow(still, whole(still), W, H);
  for (let y = 0; y < 16; y++) {
    for (let x = 0; x < 20; x++) {
      for (let c = 0; c < 3; c++) {
        expect(out[((3 * y + 1) * W + 3 * x + 1) * 3 + c]).toBe(still.data[(y * 20 + x) * 3 + c]);
      }
    }
  }
  // Halfway between two pixels Catmull–Rom weighs the four around by −1, 9, 9, −1 sixteenths.
  const line = paint(8, 1, (x) => [10, 20, 90, 200, 130, 60, 50, 40][x]!);
  const [half] = resampleWindow(line, { x: 3.5, y: 0, width: 1, height: 1 }, 1, 1);
  expect(half).toBe(Math.round((-90 + 9 * 200 + 9 * 130 - 60) / 16));
});

test('shrinking a fine checkerboard gives grey', () => {
  const still = paint(96, 96, (x, y) => ((x + y) % 2 ? 255 : 0));
  const stripes = paint(96, 96, (x) => (x % 2 ? 255 : 0));
  for (const size of [48, 41, 24, 13]) {
    for (const picture of [still, stripes]) {
      const out = resampleWindow(picture, whole(picture), size, size);
      for (let y = 2; y < size - 2; y++) {
        for (let x = 2; x < size - 2; x++) expect(Math.abs(out[(y * size + x) * 3]! - 127.5)).toBeLessThan(14);
      }
    }
  }
});

test('shrinking keeps the mean', () => {
  const still = random(96, 72);
  const mean = (data: Uint8Array) => data.reduce((sum, value) => sum + value, 0) / data.length;
  for (const [W, H] of [
    [32, 24],
    [19, 11],
    [3, 2],
  ] as const) {
    expect(Math.abs(mean(resampleWindow(still, whole(still), W, H)) - mean(still.data))).toBeLessThan(1.5);
  }
});

test('overshoot at edges is clamped to black and white', () => {
  const still = paint(40, 40, (x) => (x < 20 ? 0 : 255));
  const out = resampleWindow(still, { x: 15, y: 15, width: 10, height: 10 }, 80, 80);
  const row = Array.from({ length: 80 }, (_, x) => out[x * 3]!);
  expect(row.slice(0, 28).every((value) => value === 0)).toBe(true);
  expect(row.slice(-28).every((value) => value === 255)).toBe(true);
});

test('pixels outside of the window’s neighbourhood have no effect', () => {
  const still = random(70, 50);
  const window = { x: 20.4, y: 15.2, width: 25.5, height: 18.1 };
  const before = resampleWindow(still, window, 64, 64);
  const changed = paint(70, 50, (x, y, c) =>
    x >= 18 && x < 49 && y >= 13 && y < 36 ? still.data[(y * 70 + x) * 3 + c]! : 255,
  );
  expect(resampleWindow(changed, window, 64, 64)).toEqual(before);
});

test('the embedded WebAssembly is the assembled resample.wat', async () => {
  const text = await readFile(new URL('resample.wat', import.meta.url), 'utf8');
  const { buffer } = (await wabt()).parseWat('resample.wat', text, { simd: true }).toBinary({});
  expect(ASSEMBLED).toBe(Buffer.from(buffer).toString('base64'));
});

/** One pixel by the definition: every source pixel with its weight; beyond the edge the edge pixel repeats. */
function definition({ data, width, height }: Still, window: Window, W: number, H: number, x: number, y: number) {
  const weights = (n: number, i: number, from: number, length: number) => {
    const widening = Math.max(length / n, 1);
    const centre = from + ((i + 0.5) * length) / n - 0.5;
    const first = Math.ceil(centre - 2 * widening);
    return Array.from({ length: Math.ceil(4 * widening) }, (_, k) => {
      const d = Math.abs(first + k - centre) / widening;
      const weight = d < 1 ? 1.5 * d ** 3 - 2.5 * d ** 2 + 1 : d < 2 ? -0.5 * d ** 3 + 2.5 * d ** 2 - 4 * d + 2 : 0;
      return [first + k, weight] as const;
    });
  };
  const within = (i: number, size: number) => Math.min(Math.max(i, 0), size - 1);
  const sums = [0, 0, 0];
  let total = 0;
  for (const [row, down] of weights(H, y, window.y, window.height)) {
    for (const [column, across] of weights(W, x, window.x, window.width)) {
      const at = (within(row, height) * width + within(column, width)) * 3;
      for (let c = 0; c < 3; c++) sums[c] = sums[c]! + down * across * data[at + c]!;
      total += down * across;
    }
  }
  return sums.map((sum) => within(Math.round(sum / total), 256));
}

test.each([
  [70, 50],
  [71, 33], // no multiple of anything
  [3, 2],
])('every pixel of a %i×%i still’s windows is within one level of the definition', (width, height) => {
  const still = random(width, height);
  for (const window of [
    whole(still),
    { x: 0.03 * width, y: 0.21 * height, width: 0.9 * width, height: 0.7 * height },
    { x: 0.61 * width, y: 0.57 * height, width: 0.39 * width, height: 0.43 * height },
  ]) {
    for (const [W, H] of [
      [64, 48],
      [37, 29],
      [9, 5],
      [1, 1],
    ] as const) {
      const out = resampleWindow(still, window, W, H);
      const expected = Array.from({ length: W * H }, (_, i) =>
        definition(still, window, W, H, i % W, Math.floor(i / W)),
      ).flat();
      const worst = expected.reduce((most, value, i) => Math.max(most, Math.abs(value - out[i]!)), 0);
      expect(worst, `${W}×${H}`).toBeLessThanOrEqual(1);
    }
  }
});
