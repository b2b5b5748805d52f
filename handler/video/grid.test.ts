import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { gridFrames, gridSize } from './grid.ts';
import { readMp4, writeMp4 } from './mp4.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'grid-test-'));
});
afterEach(() => rm(folder, { recursive: true }));

type Colour = readonly [r: number, g: number, b: number];

/** Video `column` has this colour in its left half, its negative in the right half; each frame is a little lighter than the last. */
const colourOf = (column: number, t: number): Colour => [40 + 20 * column, 200 - 15 * column, 40 + 25 * t];

/** Videos of `T` frames each, W×H. */
async function makeVideos(lengths: readonly number[], W: number, H: number): Promise<string[]> {
  async function* frames(column: number, T: number) {
    for (let t = 0; t < T; t++) {
      const colour = colourOf(column, t);
      const frame = new Uint8Array(W * H * 3);
      for (let i = 0; i < W * H; i++) {
        const left = i % W < W / 2;
        for (let c = 0; c < 3; c++) frame[i * 3 + c] = left ? colour[c]! : 255 - colour[c]!;
      }
      yield frame;
    }
  }
  return Promise.all(
    lengths.map(async (T, column) => {
      const path = join(folder, `${column}.mp4`);
      await writeMp4(path, frames(column, T), { width: W, height: H, fps: 6, metadata: {} });
      return path;
    }),
  );
}

async function collect(frames: AsyncIterable<Uint8Array>): Promise<Uint8Array[]> {
  const all: Uint8Array[] = [];
  for await (const frame of frames) all.push(frame);
  return all;
}

/** Expects that each cell shows its own video, in both halves, top to bottom, and that empty cells are black. */
function expectCells(frame: Uint8Array, count: number, t: number, W: number, H: number) {
  const { width, height, columns, cell } = gridSize(count, W, H);
  expect(frame).toHaveLength(width * height * 3);
  for (let i = 0; i < columns * (height / cell.height); i++) {
    const [left, top] = [(i % columns) * cell.width, Math.floor(i / columns) * cell.height];
    for (const part of [0.1, 0.4, 0.6, 0.9]) {
      for (const y of [top, top + (cell.height >> 1), top + cell.height - 1]) {
        const at = (y * width + left + Math.floor(part * cell.width)) * 3;
        const expected = i < count ? colourOf(i, t).map((value) => (part < 0.5 ? value : 255 - value)) : [0, 0, 0];
        const worst = Math.max(...expected.map((value, c) => Math.abs(value - frame[at + c]!)));
        expect(worst, `cell ${i}, frame ${t}, ${part}, row ${y}`).toBeLessThanOrEqual(6);
      }
    }
  }
}

test.each([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])('%i videos are shown row by row, frame by frame', async (count) => {
  const paths = await makeVideos(Array(count).fill(4), 96, 64);
  const frames = await collect(gridFrames(paths, 96, 64));
  expect(frames).toHaveLength(4);
  frames.forEach((frame, t) => {
    expectCells(frame, count, t, 96, 64);
  });
});

test('cells of the videos’ size have unchanged pixels', async () => {
  const [W, H] = [64, 64];
  const paths = await makeVideos([1, 1, 1], W, H);
  const [frame] = await collect(gridFrames(paths, W, H));
  for (const [i, path] of paths.entries()) {
    for await (const { data } of readMp4(path)) {
      for (let y = 0; y < H; y++) {
        const from = (((i >> 1) * H + y) * 2 + (i % 2)) * W * 3; // two columns
        const row = data.subarray(y * W * 3, (y + 1) * W * 3);
        expect(Buffer.compare(Buffer.from(frame!.subarray(from, from + W * 3)), row)).toBe(0);
      }
    }
  }
});

test('large videos are scaled to 4K', async () => {
  const paths = await makeVideos(Array(9).fill(1), 2048, 1024);
  const frames = await collect(gridFrames(paths, 2048, 1024));
  expect(gridSize(9, 2048, 1024)).toMatchObject({ width: 2572, height: 3210, columns: 2 });
  expect(frames).toHaveLength(1);
  frames.forEach((frame, t) => {
    expectCells(frame, 9, t, 2048, 1024);
  });
});

test('a grid ends with its shortest video', async () => {
  const paths = await makeVideos([3, 2], 64, 64);
  expect(await collect(gridFrames(paths, 64, 64))).toHaveLength(2);
});

test('a missing video makes the grid reject', async () => {
  const paths = await makeVideos([2], 64, 64);
  await expect(collect(gridFrames([...paths, join(folder, 'none.mp4')], 64, 64))).rejects.toThrow();
});

test('a grid can be encoded and read', async () => {
  const paths = await makeVideos([3, 3], 64, 64);
  const { width, height } = gridSize(2, 64, 64);
  const path = join(folder, 'grid.mp4');
  expect(await writeMp4(path, gridFrames(paths, 64, 64), { width, height, fps: 6, metadata: {} })).toBe(3);
  let t = 0;
  for await (const { data } of readMp4(path)) expectCells(data, 2, t++, 64, 64);
  expect(t).toBe(3);
});

test.each([
  [512, 288, [1, 1, 1, 2, 2, 2, 2, 2, 2, 2]],
  [576, 1024, [1, 2, 3, 2, 3, 3, 4, 4, 5, 5]],
  [512, 512, [1, 2, 2, 2, 3, 3, 3, 3, 3, 4]],
  [2048, 64, Array(10).fill(1)],
  [64, 2048, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]],
])('1 to 10 videos of %i×%i are in %j columns: all fit the smallest square', (W, H, columns) => {
  expect(columns.map((_, i) => gridSize(i + 1, W, H).columns)).toEqual(columns);
});

test('the size is even, at most 3840 a side and the area of 4K, and close to the videos’ aspect ratio', () => {
  for (const count of [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]) {
    for (const [W, H] of [
      [64, 64],
      [512, 288],
      [1024, 576],
      [576, 1024],
      [2048, 64],
      [64, 2048],
      [2048, 2048],
    ] as const) {
      const { width, height, columns, cell } = gridSize(count, W, H);
      const what = `${count} of ${W}×${H}`;
      const rows = Math.ceil(count / columns);
      expect([width, height], what).toEqual([columns * cell.width, rows * cell.height]);
      expect([cell.width % 2, cell.height % 2], what).toEqual([0, 0]);
      expect(Math.max(width, height), what).toBeLessThanOrEqual(3840);
      expect(width * height, what).toBeLessThanOrEqual(3840 * 2160);
      const [w, h] = [columns * W, rows * H];
      if (Math.max(w, h) <= 3840 && w * h <= 3840 * 2160) expect(cell, what).toEqual({ width: W, height: H });
      const scale = cell.width / W;
      expect(Math.abs(cell.height - H * scale), what).toBeLessThanOrEqual(2 + 2 * (H / W));
    }
  }
});
