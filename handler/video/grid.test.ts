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

/** Expects that each cell shows its own video, in both halves, top to bottom. */
function expectCells(frame: Uint8Array, columns: number, t: number, W: number, H: number) {
  const { width, height, cell } = gridSize(columns, W, H);
  expect(frame).toHaveLength(width * height * 3);
  for (let column = 0; column < columns; column++) {
    const colour = colourOf(column, t);
    for (const part of [0.1, 0.4, 0.6, 0.9]) {
      for (const y of [0, height >> 1, height - 1]) {
        const at = (y * width + column * cell.width + Math.floor(part * cell.width)) * 3;
        const expected = colour.map((value) => (part < 0.5 ? value : 255 - value));
        const worst = Math.max(...expected.map((value, c) => Math.abs(value - frame[at + c]!)));
        expect(worst, `column ${column}, frame ${t}, ${part}, row ${y}`).toBeLessThanOrEqual(6);
      }
    }
  }
}

test('two videos are shown side by side, frame by frame', async () => {
  const paths = await makeVideos([4, 4], 96, 64);
  const frames = await collect(gridFrames(paths, 96, 64));
  expect(frames).toHaveLength(4);
  frames.forEach((frame, t) => {
    expectCells(frame, 2, t, 96, 64);
  });
});

test('cells of the videos’ size have unchanged pixels', async () => {
  const [W, H] = [64, 64];
  const paths = await makeVideos([1, 1, 1], W, H);
  const [frame] = await collect(gridFrames(paths, W, H));
  for (const [column, path] of paths.entries()) {
    for await (const { data } of readMp4(path)) {
      for (let y = 0; y < H; y++) {
        const from = (y * 3 * W + column * W) * 3;
        const row = data.subarray(y * W * 3, (y + 1) * W * 3);
        expect(Buffer.compare(Buffer.from(frame!.subarray(from, from + W * 3)), row)).toBe(0);
      }
    }
  }
});

test('ten wide videos are scaled to 3840', async () => {
  const paths = await makeVideos(Array(10).fill(2), 512, 64);
  const frames = await collect(gridFrames(paths, 512, 64));
  expect(gridSize(10, 512, 64)).toEqual({ width: 3840, height: 48, cell: { width: 384, height: 48 } });
  expect(frames).toHaveLength(2);
  frames.forEach((frame, t) => {
    expectCells(frame, 10, t, 512, 64);
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

test('the size is even, at most 3840 wide, and close to the videos’ aspect ratio', () => {
  for (const columns of [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]) {
    for (const [W, H] of [
      [64, 64],
      [512, 288],
      [1024, 576],
      [576, 1024],
      [2048, 64],
      [64, 2048],
      [2048, 2048],
    ] as const) {
      const { width, height, cell } = gridSize(columns, W, H);
      const what = `${columns} of ${W}×${H}`;
      expect(width, what).toBe(columns * cell.width);
      expect(height, what).toBe(cell.height);
      expect([cell.width % 2, cell.height % 2], what).toEqual([0, 0]);
      expect(width, what).toBeLessThanOrEqual(3840);
      if (columns * W <= 3840) expect(cell, what).toEqual({ width: W, height: H });
      else expect(width, what).toBeGreaterThan(3840 - 2 * columns); // as wide as possible
      const scale = cell.width / W;
      expect(Math.abs(cell.height - H * scale), what).toBeLessThanOrEqual(2 + 2 * (H / W));
    }
  }
});
