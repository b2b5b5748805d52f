import { expect, test } from 'vitest';
import { generator } from '../sampling/torch-random.ts';
import { type Depth, estimateDepth } from './depth.ts';
import type { Still } from './model.ts';

type Colour = readonly [r: number, g: number, b: number];

function paint(width: number, height: number, colour: (x: number, y: number) => Colour): Still {
  const data = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) data.set(colour(i % width, Math.floor(i / width)), 3 * i);
  return { data, width, height };
}

const noise = generator(3).randn(320 * 320);
const noiseAt = (x: number, y: number) => noise[(y % 320) * 320 + (x % 320)]!;

/** A textured red disc before a smooth green background. */
const disc = (cx: number, cy: number, width = 320, height = 240) =>
  paint(width, height, (x, y) => {
    if (Math.hypot(x - cx * width, y - cy * height) > 0.22 * Math.min(width, height)) return [60, 120 + y / 8, 70];
    return [200 + 25 * noiseAt(x, y), 60 + 25 * noiseAt(x, y), 50];
  });

/** Black strokes in rows. */
const text = paint(320, 240, (x, y) =>
  y % 16 < 9 && noiseAt(x >> 2, y >> 4) > 0 && x % 5 < 2 ? [20, 20, 20] : [250, 250, 250],
);
const stars = paint(320, 240, (x, y) => (noiseAt(x, y) > 2.6 ? [240, 240, 255] : [4, 5, 14]));
const facade = paint(320, 240, (x, y) =>
  y < 60 ? [120, 170, 230] : x % 32 < 14 && y % 40 < 24 ? [30, 40, 60] : [210, 190, 150],
);

const at = ({ pixels }: Depth, x: number, y: number, width = 320) => pixels[y * width + x]!;

test.each([
  [0.5, 0.5],
  [0.35, 0.55],
  [0.65, 0.45],
])('a sharp, coloured disc at %f, %f is nearer than what is around it, and the subject', (cx, cy) => {
  const depth = estimateDepth(disc(cx, cy));
  const inside = at(depth, Math.round(320 * cx), Math.round(240 * cy));
  for (const [x, y] of [
    [4, 4],
    [315, 4],
    [4, 120],
    [315, 120],
  ] as const)
    expect(inside - at(depth, x, y)).toBeGreaterThan(0.4);
  expect(Math.abs(depth.subject[0] - cx)).toBeLessThan(0.08);
  expect(Math.abs(depth.subject[1] - cy)).toBeLessThan(0.12);
  expect(depth.subjectDepth).toBeGreaterThan(0.25);
  expect(depth.certainty).toBeGreaterThan(0.7);
});

test('text, stars and walls are less certain', () => {
  for (const still of [text, stars, facade]) {
    const depth = estimateDepth(still);
    expect(depth.certainty).toBeLessThan(0.35);
    const [low, high] = [Math.min(...depth.pixels), Math.max(...depth.pixels)];
    expect(high - low).toBeLessThanOrEqual(depth.certainty + 1e-6); // so everything moves nearly alike
  }
});

test('depth is at most ½ from 0, and as steep as it says', () => {
  const { pixels, steepest } = estimateDepth(disc(0.5, 0.5));
  let [across, down] = [0, 0];
  for (let i = 320; i < pixels.length; i++) {
    expect(Math.abs(pixels[i]!)).toBeLessThanOrEqual(0.5);
    if (i % 320) across = Math.max(across, Math.abs(pixels[i]! - pixels[i - 1]!));
    down = Math.max(down, Math.abs(pixels[i]! - pixels[i - 320]!));
  }
  expect(across).toBeCloseTo(steepest[0], 5);
  expect(down).toBeCloseTo(steepest[1], 5);
});

test('a mirrored picture has the mirrored depth', () => {
  const still = disc(0.4, 0.5);
  const mirrored = paint(320, 240, (x, y) => {
    const i = (y * 320 + 319 - x) * 3;
    return [still.data[i]!, still.data[i + 1]!, still.data[i + 2]!];
  });
  const [a, b] = [estimateDepth(still), estimateDepth(mirrored)];
  let worst = 0;
  for (let i = 0; i < a.pixels.length; i++)
    worst = Math.max(worst, Math.abs(a.pixels[i]! - b.pixels[i - 2 * (i % 320) + 319]!));
  expect(worst).toBeLessThan(0.04);
  expect(a.subject[0] + b.subject[0]).toBeCloseTo(1, 1);
});

test.each([
  [1, 1],
  [1, 64],
  [64, 1],
  [9, 7],
  [64, 2048],
  [2048, 64],
])('a still of %i×%i has a depth everywhere', (width, height) => {
  for (const colour of [() => [0, 0, 0], () => [255, 255, 255], (x, y) => [x, y, 99]] as ((
    x: number,
    y: number,
  ) => Colour)[]) {
    const { pixels, subject, subjectDepth, certainty, steepest } = estimateDepth(paint(width, height, colour));
    expect(pixels).toHaveLength(width * height);
    expect([...subject, subjectDepth, certainty, ...steepest].every(Number.isFinite)).toBe(true);
    expect(pixels.every((value) => Math.abs(value) <= 0.5)).toBe(true);
    for (const share of [...subject, certainty]) expect(Math.abs(share - 0.5)).toBeLessThanOrEqual(0.5);
  }
});
