import sharp from 'sharp';
import { expect, test } from 'vitest';
import type { Still } from '../models/model.ts';
import { fitStill } from './fit.ts';

type Colour = readonly [r: number, g: number, b: number];

const RED = [220, 30, 30] as const;
const GREEN = [30, 200, 30] as const;
const BLUE = [30, 30, 220] as const;

function paint(width: number, height: number, colour: (x: number, y: number) => Colour): Promise<Buffer> {
  const data = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) data.set(colour(i % width, Math.floor(i / width)), i * 3);
  return sharp(data, { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
}

const at = ({ data, width }: Still, x: number, y: number) => [
  ...data.subarray((y * width + x) * 3, (y * width + x) * 3 + 3),
];

function expectColour(still: Still, x: number, y: number, expected: Colour) {
  const actual = at(still, x, y);
  const difference = Math.max(...actual.map((value, c) => Math.abs(value - expected[c]!)));
  expect(difference, `${actual} instead of ${expected} at ${x},${y}`).toBeLessThanOrEqual(3);
}

/** Three equal stripes along one axis. */
const stripes = (position: number, length: number) => [RED, GREEN, BLUE][Math.floor((3 * position) / length)]!;

test('cover keeps the middle of a wide picture', async () => {
  const png = await paint(192, 64, (x) => stripes(x, 192));
  const still = await fitStill(png, { W: 64, H: 64, fit: 'cover' });
  for (const x of [1, 32, 62]) for (const y of [0, 63]) expectColour(still, x, y, GREEN);
});

test('cover keeps the middle of a tall picture', async () => {
  const png = await paint(64, 192, (_, y) => stripes(y, 192));
  const still = await fitStill(png, { W: 64, H: 64, fit: 'cover' });
  for (const y of [1, 32, 62]) for (const x of [0, 63]) expectColour(still, x, y, GREEN);
});

test('cover crops both sides equally, and does not distort', async () => {
  const disc = (x: number, y: number) => (Math.hypot(x - 99.5, y - 39.5) < 30 ? RED : BLUE);
  const still = await fitStill(await paint(200, 80, disc), { W: 64, H: 64, fit: 'cover' });
  const red = (x: number, y: number) => at(still, x, y)[0]! > 125;
  const row = Array.from({ length: 64 }, (_, x) => red(x, 32));
  const column = Array.from({ length: 64 }, (_, y) => red(32, y));
  expect(row).toEqual([...row].reverse());
  expect(column).toEqual([...column].reverse());
  expect(row).toEqual(column); // still round: 0.8 times as large in both directions
  expect(row.filter(Boolean)).toHaveLength(48);
});

test('contain shows the whole picture between blurred bars', async () => {
  const squares = (x: number, y: number): Colour => (((x >> 2) + (y >> 2)) % 2 ? [255, 255, 255] : [0, 0, 0]);
  const wide = (x: number, y: number) => (x < 8 ? RED : x >= 248 ? BLUE : squares(x, y));
  const still = await fitStill(await paint(256, 128, wide), { W: 128, H: 128, fit: 'contain' });
  for (const y of [34, 64, 93]) {
    expectColour(still, 0, y, RED);
    expectColour(still, 127, y, BLUE);
  }
  const greens = (y: number) => Array.from({ length: 112 }, (_, x) => at(still, x + 8, y)[1]!);
  expect(Math.max(...greens(64)) - Math.min(...greens(64))).toBeGreaterThan(150); // the picture's own squares
  for (const y of [2, 15, 28, 99, 125]) {
    expect(Math.min(...greens(y)), 'not black').toBeGreaterThan(110);
    expect(Math.max(...greens(y)), 'blurred').toBeLessThan(145);
  }
});

test('contain shows a tall picture whole, with bars left and right', async () => {
  const still = await fitStill(await paint(64, 192, (_, y) => stripes(y, 192)), { W: 96, H: 96, fit: 'contain' });
  for (const x of [34, 48, 61]) for (const y of [1, 48, 94]) expectColour(still, x, y, stripes(y, 96));
  for (const x of [3, 90]) expectColour(still, x, 48, GREEN); // bars: the middle of the picture, as cover shows it
});

test('stretch shows the whole picture, distorted', async () => {
  const png = await paint(192, 64, (x) => stripes(x, 192));
  const still = await fitStill(png, { W: 64, H: 128, fit: 'stretch' });
  for (const y of [0, 64, 127]) for (const x of [0, 10, 31, 53, 63]) expectColour(still, x, y, stripes(x, 64));
});

for (const fit of ['cover', 'contain', 'stretch'] as const) {
  test(`${fit}: rgb24 of the frame's size`, async () => {
    for (const { from, W, H } of [
      { from: [1024, 576], W: 512, H: 288 },
      { from: [512, 288], W: 512, H: 288 },
      { from: [100, 50], W: 512, H: 256 },
      { from: [700, 300], W: 256, H: 256 },
      { from: [300, 700], W: 256, H: 256 },
      { from: [200, 600], W: 64, H: 512 },
      { from: [1, 1], W: 64, H: 128 },
    ] as const) {
      const still = await fitStill(await paint(from[0], from[1], () => RED), { W, H, fit });
      expect([still.width, still.height, still.data.length], `${from} to ${W}×${H}`).toEqual([W, H, W * H * 3]);
      expectColour(still, 0, 0, RED);
      expectColour(still, W - 1, H - 1, RED);
    }
  });
}

test('a picture of the frame’s size is unchanged', async () => {
  const png = await paint(64, 128, (x, y) => [x * 4, y * 2, (x * y) % 256]);
  const before = await sharp(png).raw().toBuffer();
  for (const fit of ['cover', 'contain', 'stretch'] as const) {
    const still = await fitStill(png, { W: 64, H: 128, fit });
    expect(Buffer.compare(Buffer.from(still.data), before), fit).toBe(0);
  }
});

test.each([
  [1, 4000],
  [4000, 1],
  [1, 65_535],
  [65_535, 1],
  [3, 65_535],
])('a very thin picture of %i×%i fits every frame, and shows its middle', async (width, height) => {
  const length = Math.max(width, height);
  const png = await paint(width, height, (x, y) => stripes(Math.max(x, y), length));
  for (const [W, H] of [
    [2048, 64],
    [64, 2048],
  ] as const) {
    for (const fit of ['cover', 'contain', 'stretch'] as const) {
      const still = await fitStill(png, { W, H, fit });
      expect([still.width, still.height, still.data.length], fit).toEqual([W, H, 3 * W * H]);
      expectColour(still, W / 2, H / 2, GREEN);
    }
    const stretched = await fitStill(png, { W, H, fit: 'stretch' });
    expectColour(stretched, 0, 0, RED);
    expectColour(stretched, W - 1, H - 1, BLUE);
  }
});

test('the bars are blurred equally in wide and tall frames', async () => {
  const board = await paint(256, 256, (x, y) => (((x >> 2) + (y >> 2)) % 2 ? [255, 255, 255] : [0, 0, 0]));
  const flat = await fitStill(board, { W: 1024, H: 128, fit: 'contain' });
  const tall = await fitStill(board, { W: 128, H: 1024, fit: 'contain' });
  for (let along = 0; along < 1024; along++) {
    if (along > 430 && along < 594) continue; // the picture
    for (const across of [10, 64, 117]) {
      const [a, b] = [at(flat, along, across), at(tall, across, along)];
      expect(Math.abs(a[0]! - b[0]!), `${along}, ${across}`).toBeLessThanOrEqual(2);
      expect(Math.abs(a[0]! - 128), `${along}, ${across}`).toBeLessThan(90); // 0 and 255 in the picture
    }
  }
});
