import { readdirSync, readlinkSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Decoder, Demuxer, Encoder, FilterAPI, Muxer } from 'node-av/api';
import {
  AV_CODEC_ID_H264,
  AV_PIX_FMT_YUV420P,
  AV_PROFILE_H264_HIGH,
  AVCOL_PRI_BT709,
  AVCOL_RANGE_MPEG,
  AVCOL_SPC_BT709,
  AVCOL_TRC_BT709,
} from 'node-av/constants';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { readMp4, writeMp4 } from './mp4.ts';

const width = 96;
const height = 64;
const fps = 6;
const metadata = { model: 'camera', seed: 42, cfg_scale: 2.5, note: 'ü "=;#\\ 100 %\n' };
const options = { width, height, fps, metadata };

let folder: string;
let path: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'mp4-test-'));
  path = join(folder, 'video.mp4');
});
afterEach(() => rm(folder, { recursive: true }));

/** Frame t of a smooth clip, in which each colour moves differently. */
function smooth(t: number): Uint8Array {
  const frame = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) {
    const x = i % width;
    const y = Math.floor(i / width);
    frame[i * 3] = 128 + 100 * Math.sin((x + 3 * t) / 15);
    frame[i * 3 + 1] = 128 + 100 * Math.cos((y + 2 * t) / 12);
    frame[i * 3 + 2] = 128 + 90 * Math.sin((x + y - t) / 20);
  }
  return frame;
}

/** T frames, and whether their source was closed. */
function source(T: number, beforeFrame: (t: number) => void = () => {}) {
  const state = { finished: false };
  async function* generate() {
    try {
      for (let t = 0; t < T; t++) {
        beforeFrame(t);
        yield smooth(t);
      }
    } finally {
      state.finished = true;
    }
  }
  return { frames: generate(), state };
}

const write = (T: number) => writeMp4(path, source(T).frames, options);

/** Peak signal-to-noise ratio in dB. */
function psnr(a: Uint8Array, b: Uint8Array): number {
  const squares = a.reduce((sum, value, i) => sum + (value - b[i]!) ** 2, 0);
  return 10 * Math.log10(255 ** 2 / (squares / a.length));
}

/** The files of the test's folder that this process has open, on Linux. */
function openFiles(): string[] {
  if (process.platform !== 'linux') return [];
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const file = readlinkSync(`/proc/self/fd/${fd}`);
      return file.startsWith(folder) ? [file] : [];
    } catch {
      return []; // closed meanwhile
    }
  });
}

/** The names of an MP4's top-level boxes, in order. */
function boxes(file: Buffer): string[] {
  const names: string[] = [];
  for (let at = 0; at < file.length; at += file.readUInt32BE(at)) names.push(file.toString('latin1', at + 4, at + 8));
  return names;
}

test('the decoded frames have the count, the size and nearly the pixels of the encoded ones', async () => {
  const T = 9;
  expect(await write(T)).toBe(T);
  let t = 0;
  for await (const frame of readMp4(path)) {
    expect(frame).toMatchObject({ width, height });
    expect(frame.data).toHaveLength(width * height * 3);
    expect(psnr(smooth(t), frame.data), `frame ${t}`).toBeGreaterThan(35);
    expect(psnr(smooth(t + 1), frame.data), `not the next of frame ${t}`).toBeLessThan(33);
    t++;
  }
  expect(t).toBe(T);
});

const COLOURS = [
  [220, 30, 30],
  [30, 200, 30],
  [30, 30, 220],
  [255, 255, 255],
  [0, 0, 0],
] as const;

test.each(COLOURS)('the colour %i, %i, %i is kept, and stored as BT.709', async (r, g, b) => {
  const frame = new Uint8Array(Buffer.alloc(width * height * 3, Uint8Array.of(r, g, b)));
  async function* frames() {
    yield frame;
  }
  await writeMp4(path, frames(), options);
  for await (const { data } of readMp4(path)) {
    const worst = data.reduce((most, value, i) => Math.max(most, Math.abs(value - frame[i]!)), 0);
    expect(worst).toBeLessThanOrEqual(5); // a chroma value that is off by one and a half makes 3, a luma value 1
  }

  const luma = 0.2126 * r + 0.7152 * g + 0.0722 * b; // ITU-R BT.709, limited range
  const stored = [
    16 + (219 / 255) * luma,
    128 + (224 / 255 / 1.8556) * (b - luma),
    128 + (224 / 255 / 1.5748) * (r - luma),
  ];
  const demuxer = await Demuxer.open(path);
  const decoder = await Decoder.create(demuxer.video()!);
  try {
    for await (const yuv of decoder.frames(demuxer.packets(0))) {
      if (!yuv) continue;
      const planes = yuv.toBuffer();
      const first = [planes[0]!, planes[width * height]!, planes[(width * height * 5) / 4]!];
      yuv.free();
      for (const [plane, value] of first.entries()) {
        expect(Math.abs(value - stored[plane]!), `plane ${plane}: ${value}, not ${stored[plane]}`).toBeLessThanOrEqual(
          2,
        );
      }
    }
  } finally {
    decoder.close();
    await demuxer.close();
  }
});

test('the file is H.264 High in yuv420p, and marked as BT.709', async () => {
  await write(7);
  const demuxer = await Demuxer.open(path);
  try {
    expect(demuxer.streams).toHaveLength(1);
    const stream = demuxer.video()!;
    expect(stream.codecpar).toMatchObject({
      codecId: AV_CODEC_ID_H264,
      profile: AV_PROFILE_H264_HIGH,
      format: AV_PIX_FMT_YUV420P,
      width,
      height,
      colorPrimaries: AVCOL_PRI_BT709,
      colorTrc: AVCOL_TRC_BT709,
      colorSpace: AVCOL_SPC_BT709,
      colorRange: AVCOL_RANGE_MPEG,
    });
    expect(stream.nbFrames).toBe(7n);
    expect(demuxer.duration).toBeCloseTo(7 / fps, 3);
  } finally {
    await demuxer.close();
  }
});

test.each([1, 5, 6, 7, 24, 30, 120])('frames at %i a second are evenly spaced', async (fps) => {
  await writeMp4(path, source(5).frames, { ...options, fps });
  const demuxer = await Demuxer.open(path);
  try {
    const stream = demuxer.video()!;
    expect(stream.avgFrameRate.num / stream.avgFrameRate.den).toBe(fps);
    const seconds: number[] = [];
    for await (const packet of demuxer.packets(stream.index)) {
      if (!packet) continue;
      seconds.push((Number(packet.pts) * stream.timeBase.num) / stream.timeBase.den);
      packet.free();
    }
    seconds.sort((a, b) => a - b);
    for (const [t, second] of seconds.entries()) expect(second).toBeCloseTo(t / fps, 6);
    expect(demuxer.duration).toBeCloseTo(5 / fps, 3);
  } finally {
    await demuxer.close();
  }
});

test('playback can start early: moov comes before mdat', async () => {
  await write(3);
  const names = boxes(await readFile(path));
  expect(names[0]).toBe('ftyp');
  expect(names).toContain('mdat');
  expect(names.indexOf('moov')).toBeGreaterThan(0);
  expect(names.indexOf('moov')).toBeLessThan(names.indexOf('mdat'));
});

test('the comment tag is the metadata', async () => {
  await write(1);
  const demuxer = await Demuxer.open(path);
  try {
    expect(JSON.parse(demuxer.metadata!.comment!)).toEqual(metadata);
  } finally {
    await demuxer.close();
  }
});

test('the same frames give the same bytes', async () => {
  await write(12);
  const first = await readFile(path);
  await write(12);
  expect(Buffer.compare(await readFile(path), first)).toBe(0);
});

test('a video may have one frame', async () => {
  expect(await write(1)).toBe(1);
  const frames: Uint8Array[] = [];
  for await (const { data } of readMp4(path)) frames.push(data);
  expect(frames).toHaveLength(1);
  expect(psnr(smooth(0), frames[0]!)).toBeGreaterThan(35);
});

test('after writing, and after reading part of it, no file stays open', async () => {
  await write(5);
  expect(openFiles()).toEqual([]);
  for await (const _ of readMp4(path)) {
    if (process.platform === 'linux') expect(openFiles()).toEqual([path]); // openFiles works
    break;
  }
  expect(openFiles()).toEqual([]);
});

test.each([0, 1, 4])('an error of the source at frame %i is rethrown, and nothing stays open', async (at) => {
  const error = new Error('no more frames');
  const { frames, state } = source(6, (t) => {
    if (t === at) throw error;
  });
  await expect(writeMp4(path, frames, options)).rejects.toBe(error);
  expect(state.finished).toBe(true);
  expect(openFiles()).toEqual([]);
});

test.each([0, 1, 4])(
  'an abort at frame %i rejects with its reason, ends the source, and leaves nothing open',
  async (at) => {
    const controller = new AbortController();
    const reason = new Error('the task was canceled');
    let drawn = 0;
    const { frames, state } = source(100, (t) => {
      drawn++;
      if (t === at) controller.abort(reason);
    });
    await expect(writeMp4(path, frames, { ...options, signal: controller.signal })).rejects.toBe(reason);
    expect(drawn).toBe(at + 1);
    expect(state.finished).toBe(true);
    expect(openFiles()).toEqual([]);
  },
);

test('a frame of the wrong size, or a size that H.264 lacks, rejects; nothing stays open', async () => {
  const small = source(3);
  await expect(writeMp4(path, small.frames, { ...options, height: 128 })).rejects.toThrow();
  const odd = source(3);
  await expect(writeMp4(path, odd.frames, { ...options, width: 95 })).rejects.toThrow();
  expect([small.state.finished, odd.state.finished]).toEqual([true, true]);
  expect(openFiles()).toEqual([]);
});

test('a file that is not a video can’t be read', async () => {
  await writeFile(path, 'I am video.mp4, honestly.'.repeat(100));
  await expect(readMp4(path).next()).rejects.toThrow();
  await expect(readMp4(join(folder, 'none.mp4')).next()).rejects.toThrow();
  expect(openFiles()).toEqual([]);
});

describe('if one part can’t be opened, the others are closed', () => {
  const error = new Error('no memory for it');
  let closing: Record<string, { mock: { calls: unknown[] } }>;
  const closed = () => Object.fromEntries(Object.entries(closing).map(([part, { mock }]) => [part, mock.calls.length]));
  beforeEach(() => {
    closing = {
      encoder: vi.spyOn(Encoder.prototype, 'close'),
      muxer: vi.spyOn(Muxer.prototype, 'close'),
      filter: vi.spyOn(FilterAPI.prototype, 'close'),
      demuxer: vi.spyOn(Demuxer.prototype, 'close'),
      decoder: vi.spyOn(Decoder.prototype, 'close'),
    };
  });
  afterEach(() => {
    vi.restoreAllMocks();
  });

  test('the encoder’s filter', async () => {
    vi.spyOn(FilterAPI, 'create').mockImplementation(() => {
      throw error;
    });
    await expect(write(1)).rejects.toBe(error);
    expect(closed()).toMatchObject({ encoder: 0, filter: 0, muxer: 0 });
    expect(openFiles()).toEqual([]);
  });

  test('the encoder', async () => {
    vi.spyOn(Encoder, 'create').mockRejectedValue(error);
    await expect(write(1)).rejects.toBe(error);
    expect(closed()).toMatchObject({ encoder: 0, filter: 1, muxer: 0 });
    expect(openFiles()).toEqual([]);
  });

  test('the muxer', async () => {
    vi.spyOn(Muxer, 'open').mockRejectedValue(error);
    await expect(write(1)).rejects.toBe(error);
    expect(closed()).toMatchObject({ encoder: 1, filter: 1, muxer: 0 });
    expect(openFiles()).toEqual([]);
  });

  test('the decoder', async () => {
    await write(1);
    vi.clearAllMocks();
    vi.spyOn(Decoder, 'create').mockRejectedValue(error);
    await expect(readMp4(path).next()).rejects.toBe(error);
    expect(closed()).toMatchObject({ demuxer: 1, decoder: 0 });
    expect(openFiles()).toEqual([]);
  });

  test('the decoder’s filter', async () => {
    await write(1);
    vi.clearAllMocks();
    vi.spyOn(FilterAPI, 'create').mockImplementation(() => {
      throw error;
    });
    await expect(readMp4(path).next()).rejects.toBe(error);
    expect(closed()).toMatchObject({ demuxer: 1, decoder: 1 });
    expect(openFiles()).toEqual([]);
  });
});
