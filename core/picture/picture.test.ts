import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { deflateSync } from 'node:zlib';
import sharp, { type Sharp } from 'sharp';
import { beforeAll, expect, test, vi } from 'vitest';
import { craftPng, pngChunk, scansJpeg } from '../../test/support/malicious-pictures.ts';
import { JobError } from '../job.ts';
import { countScans, decode } from './decode.mjs';
import { MAX_PICTURE_BYTES, MAX_PICTURE_PIXELS, MAX_PICTURE_SCANS } from './limits.ts';
import { checkPicture, findSandbox, toPng } from './picture.ts';

vi.mock('node:child_process', { spy: true });
beforeAll(async () => {
  await findSandbox(); // so that a test sees only its own decoder start
});

const limits = { maxPixels: MAX_PICTURE_PIXELS, maxSide: 65_535, maxScans: MAX_PICTURE_SCANS };
/** Decodes in this process, which is faster than starting one. */
const convert = (bytes: Uint8Array) => decode(bytes, { png: true, ...limits });

const W = 64;
const H = 48;

type Colour = readonly [r: number, g: number, b: number];

/** A picture of the given colours, rgb24. */
function paint(colour: (x: number, y: number) => Colour, width = W, height = H): Sharp {
  const data = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) data.set(colour(i % width, Math.floor(i / width)), i * 3);
  return sharp(data, { raw: { width, height, channels: 3 } });
}

/** Smooth, so that lossy types keep it; different in each corner. */
const gradient: (x: number, y: number) => Colour = (x, y) => [(x * 255) / (W - 1), (y * 255) / (H - 1), 96];

/** Pixels of a PNG, as stored. */
const pixels = async (png: Uint8Array) => sharp(png).raw().toBuffer({ resolveWithObject: true });

async function pixel(png: Uint8Array, x: number, y: number): Promise<number[]> {
  const { data, info } = await pixels(png);
  return [...data.subarray((y * info.width + x) * info.channels).subarray(0, info.channels)];
}

function expectColour(actual: number[], expected: Colour, tolerance: number) {
  expect(actual).toHaveLength(3);
  const difference = Math.max(...actual.map((value, c) => Math.abs(value - expected[c]!)));
  expect(difference, `${actual} instead of ${expected}`).toBeLessThanOrEqual(tolerance);
}

const types: Record<string, () => Promise<Buffer>> = {
  jpeg: () => paint(gradient).jpeg({ quality: 95 }).toBuffer(),
  'progressive jpeg': () => paint(gradient).jpeg({ quality: 95, progressive: true }).toBuffer(),
  png: () => paint(gradient).png().toBuffer(),
  'interlaced png': () => paint(gradient).png({ progressive: true }).toBuffer(),
  webp: () => paint(gradient).webp({ quality: 95 }).toBuffer(),
  'lossless webp': () => paint(gradient).webp({ lossless: true }).toBuffer(),
  avif: () => paint(gradient).avif({ quality: 90, effort: 0 }).toBuffer(),
  gif: () => paint(gradient).gif().toBuffer(),
  tiff: () => paint(gradient).tiff({ compression: 'lzw' }).toBuffer(),
  'tiled tiff': () => paint(gradient).tiff({ compression: 'deflate', tile: true, pyramid: true }).toBuffer(),
};

for (const [type, make] of Object.entries(types)) {
  test(`${type} is a picture`, async () => {
    const bytes = await make();
    const [png, size] = await Promise.all([toPng(bytes), checkPicture(bytes)]);
    expect(size).toEqual({ width: W, height: H });
    expect(await sharp(png).metadata()).toMatchObject({ format: 'png', width: W, height: H });
    const tolerance = type === 'gif' ? 24 : 8; // a GIF has 256 colours
    for (const [x, y] of [
      [0, 0],
      [W - 1, 0],
      [0, H - 1],
      [W - 1, H - 1],
    ] as const) {
      expectColour(await pixel(png, x, y), gradient(x, y), tolerance);
    }
  });
}

/** Expects that checkPicture and toPng refuse the picture. */
async function expectRejected(bytes: Uint8Array, message = /^not a complete picture/) {
  const refusals = [checkPicture, toPng].map(async (work) => {
    const error = await work(bytes).then(
      () => undefined,
      (error) => error,
    );
    expect(error, work.name).toBeInstanceOf(JobError);
    expect(error.code).toBe('image_rejected');
    expect(error.message).toMatch(message);
  });
  await Promise.all(refusals);
}

test('100 megapixels are refused by the header alone', async () => {
  const oneBit = { depth: 1, colour: 0 };
  const noPixels = deflateSync(Buffer.alloc(10));
  await expectRejected(craftPng(10_000, 10_000, { ...oneBit, data: noPixels }), /megapixels/);
  await expectRejected(craftPng(100, 100, { ...oneBit, data: noPixels }), /^not a complete picture/); // a small one is refused when its pixels are read
  const whole = deflateSync(Buffer.alloc(10_000 * (10_000 / 8 + 1)));
  await expectRejected(craftPng(10_000, 10_000, { ...oneBit, data: whole }), /megapixels/);
});

test('a side of 65,535 pixels is accepted, and one more pixel is not', async () => {
  const column = (height: number) => craftPng(1, height, { colour: 0, data: deflateSync(Buffer.alloc(2 * height)) });
  await checkPicture(column(65_535));
  expect(await sharp(await toPng(column(65_535))).metadata()).toMatchObject({ width: 1, height: 65_535 });
  await expectRejected(column(65_536), /65,535 pixels a side/);
});

test('20 MB are accepted, and one more byte is not', async () => {
  const jpeg = await paint(gradient).jpeg().toBuffer();
  const padded = Buffer.concat([jpeg, Buffer.alloc(MAX_PICTURE_BYTES + 1 - jpeg.length)]);
  expect(padded).toHaveLength(20_000_001);
  await checkPicture(padded.subarray(0, -1));
  await expectRejected(padded, /at most 20 MB/);
});

const RED = [220, 30, 30] as const;
const GREEN = [30, 200, 30] as const;
const BLUE = [30, 30, 220] as const;
const GREY = [128, 128, 128] as const;

/** The place of each stored quarter (left top, right top, left bottom, right bottom) by EXIF orientation. */
const seen: Record<number, [Colour, Colour, Colour, Colour]> = {
  1: [RED, GREEN, BLUE, GREY],
  2: [GREEN, RED, GREY, BLUE],
  3: [GREY, BLUE, GREEN, RED],
  4: [BLUE, GREY, RED, GREEN],
  5: [RED, BLUE, GREEN, GREY],
  6: [BLUE, RED, GREY, GREEN],
  7: [GREY, GREEN, BLUE, RED],
  8: [GREEN, GREY, RED, BLUE],
};

for (const [orientation, quarters] of Object.entries(seen)) {
  test(`EXIF orientation ${orientation} comes out upright`, async () => {
    const stored = paint((x, y) => [RED, GREEN, BLUE, GREY][(y < H / 2 ? 0 : 2) + (x < W / 2 ? 0 : 1)]!);
    const jpeg = await stored
      .withMetadata({ orientation: Number(orientation) })
      .jpeg({ quality: 95, chromaSubsampling: '4:4:4' })
      .toBuffer();
    const png = await convert(jpeg);
    const { info } = await pixels(png);
    const [width, height] = Number(orientation) >= 5 ? [H, W] : [W, H];
    expect(info).toMatchObject({ width, height });
    expect(await checkPicture(jpeg)).toEqual({ width, height });
    for (const [i, colour] of quarters.entries()) {
      const x = Math.floor(width * (i % 2 ? 0.75 : 0.25));
      const y = Math.floor(height * (i < 2 ? 0.25 : 0.75));
      expectColour(await pixel(png, x, y), colour, 6);
    }
  });
}

test('alpha is flattened over white', async () => {
  const alphas = [0, 128, 255];
  const rgba = Buffer.from(alphas.flatMap((alpha) => [...RED, alpha]));
  const bytes = await sharp(rgba, { raw: { width: 3, height: 1, channels: 4 } })
    .png()
    .toBuffer();
  const png = await convert(bytes);
  for (const [x, alpha] of alphas.entries()) {
    const over = RED.map((value) => 255 + (alpha / 255) * (value - 255)) as unknown as Colour;
    expectColour(await pixel(png, x, 0), over, 1);
  }
});

const eightBitRgb = { format: 'png', depth: 'uchar', space: 'srgb', channels: 3, hasAlpha: false };

test('16 bits become 8', async () => {
  const data = new Uint16Array(W * H * 3).map((_, i) => (i % 3 === 0 ? 0xffff : i % 3 === 1 ? 0x8080 : 0));
  const bytes = await sharp(data, { raw: { width: W, height: H, channels: 3 } })
    .toColourspace('rgb16')
    .png()
    .toBuffer();
  expect(await sharp(bytes).metadata()).toMatchObject({ depth: 'ushort' });
  const png = await convert(bytes);
  expect(await sharp(png).metadata()).toMatchObject(eightBitRgb);
  expectColour(await pixel(png, 5, 5), [255, 128, 0], 1);
});

test('grey becomes rgb', async () => {
  for (const depth of ['b-w', 'grey16'] as const) {
    const bytes = await paint(() => [200, 200, 200])
      .toColourspace(depth)
      .png()
      .toBuffer();
    expect((await sharp(bytes).metadata()).channels, depth).toBe(1);
    const png = await convert(bytes);
    expect(await sharp(png).metadata(), depth).toMatchObject(eightBitRgb);
    expectColour(await pixel(png, 5, 5), [200, 200, 200], 1);
  }
});

test('grey with alpha becomes rgb over white', async () => {
  const bytes = await sharp(Buffer.from([100, 0, 100, 255]), { raw: { width: 2, height: 1, channels: 2 } })
    .toColourspace('b-w')
    .png()
    .toBuffer();
  expect((await sharp(bytes).metadata()).channels).toBe(2);
  const png = await convert(bytes);
  expectColour(await pixel(png, 0, 0), [255, 255, 255], 0);
  expectColour(await pixel(png, 1, 0), [100, 100, 100], 1);
});

test('a palette becomes rgb', async () => {
  const bytes = await paint(() => RED)
    .png({ palette: true })
    .toBuffer();
  const png = await convert(bytes);
  expect(await sharp(png).metadata()).toMatchObject(eightBitRgb);
  expectColour(await pixel(png, 5, 5), RED, 1);
});

test('a wider colour space is converted to sRGB, not just relabelled', async () => {
  const bytes = await paint(() => RED)
    .withIccProfile('p3')
    .png()
    .toBuffer();
  expect(await pixel(bytes, 5, 5)).not.toEqual(RED); // stored as P3's numbers
  expectColour(await pixel(await convert(bytes), 5, 5), RED, 4);
});

const s15Fixed16 = (...values: number[]) => {
  const bytes = Buffer.alloc(4 * values.length);
  for (const [i, value] of values.entries()) bytes.writeInt32BE(Math.round(value * 65_536), 4 * i);
  return bytes;
};
const D50 = [0.9642, 1, 0.8249];

/** An ICC profile (version 2, for displays) of these tags. */
function iccProfile(space: 'RGB ' | 'GRAY', tags: Record<string, Buffer>): Buffer {
  const named = { desc: Buffer.concat([Buffer.from('desc\0\0\0\0\0\0\0\x02x\0'), Buffer.alloc(78)]), ...tags };
  const entries = Object.entries(named);
  const start = 128 + 4 + 12 * entries.length;
  const table = Buffer.alloc(4 + 12 * entries.length);
  table.writeUInt32BE(entries.length);
  let offset = start;
  for (const [i, [name, { length }]] of entries.entries()) {
    table.write(name, 4 + 12 * i);
    table.writeUInt32BE(offset, 8 + 12 * i);
    table.writeUInt32BE(length, 12 + 12 * i);
    offset += length;
  }
  const header = Buffer.alloc(128);
  header.writeUInt32BE(offset, 0);
  header.writeUInt32BE(0x02400000, 8);
  header.write(`mntr${space}XYZ `, 12);
  header.write('acsp', 36);
  s15Fixed16(...D50).copy(header, 68);
  return Buffer.concat([header, table, ...entries.map(([, data]) => data)]);
}
const xyz = (...values: number[]) => Buffer.concat([Buffer.from('XYZ \0\0\0\0'), s15Fixed16(...values)]);
const curve = (gamma: number) => {
  const bytes = Buffer.alloc(16);
  bytes.write('curv');
  bytes.writeUInt32BE(1, 8);
  bytes.writeUInt16BE(Math.round(gamma * 256), 12);
  return bytes;
};

/** Adobe RGB (1998): its primaries, adapted to D50. Its gamma is 2 + 51/256. */
const adobeRgb = iccProfile('RGB ', {
  ...{ wtpt: xyz(...D50), rXYZ: xyz(0.60974, 0.31111, 0.01947), gXYZ: xyz(0.20528, 0.62567, 0.06087) },
  ...{ bXYZ: xyz(0.14919, 0.06322, 0.74457), rTRC: curve(2.19921875), gTRC: curve(2.19921875) },
  bTRC: curve(2.19921875),
});
const linearGrey = iccProfile('GRAY', { wtpt: xyz(...D50), kTRC: curve(1) });

/** A PNG of one pixel with these samples, in 8 or 16 bits, and a colour profile. */
function tagged(samples: number[], depth: 8 | 16, profile: Buffer): Buffer {
  const colour = { 1: 0, 2: 4, 3: 2, 4: 6 }[samples.length]!;
  const row = depth === 8 ? samples : samples.flatMap((sample) => [sample, sample]);
  const extra = [pngChunk('iCCP', Buffer.concat([Buffer.from('x\0\0'), deflateSync(profile)]))];
  return craftPng(1, 1, { depth, colour, extra, data: deflateSync(Buffer.from([0, ...row])) });
}

for (const depth of [8, 16] as const) {
  test(`Adobe RGB of ${depth} bits comes out as sRGB`, async () => {
    // Computed from both spaces' definitions: linear light, XYZ, clipped, sRGB's curve.
    for (const [adobe, srgb] of [
      [
        [200, 100, 50],
        [227, 100, 42],
      ],
      [
        [100, 200, 100],
        [0, 201, 92],
      ],
      [
        [30, 60, 220],
        [0, 57, 225],
      ],
      [
        [120, 120, 120],
        [121, 121, 121],
      ],
    ] as const) {
      expectColour(await pixel(await convert(tagged([...adobe], depth, adobeRgb)), 0, 0), srgb, 1);
      expectColour(await pixel(await convert(tagged([...adobe, 255], depth, adobeRgb)), 0, 0), srgb, 1);
    }
  });

  test(`linear grey of ${depth} bits comes out with sRGB's curve`, async () => {
    expectColour(await pixel(await convert(tagged([60], depth, linearGrey)), 0, 0), [133, 133, 133], 1);
  });
}

test('CMYK with a profile is converted by its profile', async () => {
  const bytes = await paint(() => [40, 120, 60])
    .withIccProfile('cmyk')
    .toColourspace('cmyk')
    .jpeg({ quality: 100 })
    .toBuffer();
  expect((await sharp(bytes).metadata()).icc?.length).toBeGreaterThan(100_000);
  expectColour(await pixel(await convert(bytes), 5, 5), [26, 108, 47], 1); // the result of Pillow's ImageCms
});

test('a malformed colour profile is ignored', async () => {
  const broken = Buffer.from(adobeRgb).fill(0xff, 100, 300);
  expectColour(await pixel(await convert(tagged([200, 100, 50], 8, broken)), 0, 0), [200, 100, 50], 0);
});

test('the first page of a TIFF is used, even if others are larger', async () => {
  const data = Buffer.concat([RED, GREEN].map((colour) => Buffer.alloc(8 * 8 * 3, Buffer.from(colour))));
  const bytes = await sharp(data, { raw: { width: 8, height: 16, channels: 3, pageHeight: 8 } })
    .tiff({ compression: 'none' })
    .toBuffer();
  expect((await sharp(bytes).metadata()).pages).toBe(2);
  const png = await convert(bytes);
  expect(await sharp(png).metadata()).toMatchObject({ width: 8, height: 8 });
  expectColour(await pixel(png, 4, 4), RED, 0);
});

test('a WebP rotated by EXIF comes out upright', async () => {
  const bytes = await paint(gradient).withMetadata({ orientation: 6 }).webp({ lossless: true }).toBuffer();
  const png = await convert(bytes);
  expect(await sharp(png).metadata()).toMatchObject({ width: H, height: W });
  expectColour(await pixel(png, H - 1, 0), gradient(0, 0), 1);
});

/** The decoder that was started last. */
const decoder = () => vi.mocked(spawn).mock.results.at(-1)!.value as ReturnType<typeof spawn>;
/** A second of work in 140 kB, with as many scans as are accepted. */
const slow = () => scansJpeg(8000, 8000, 99);

test.each([
  ['a check', checkPicture, 10],
  ['a PNG', toPng, 30],
] as const)('the decoder has a number of CPU seconds for %s, however busy the machine is', async (_, work, seconds) => {
  vi.mocked(spawn).mockClear();
  const refused = expect(work(slow())).rejects.toMatchObject({
    code: 'image_rejected',
    message: 'the picture takes too long to decode',
  });
  await vi.waitUntil(() => vi.mocked(spawn).mock.results.length > 0);
  const limits = () => readFile(`/proc/${decoder().pid}/limits`, 'utf8');
  await expect.poll(limits).toMatch(new RegExp(`^Max cpu time +${seconds} +${seconds + 1} `, 'm'));
  decoder().kill('SIGXCPU'); // as the kernel does when they are used up
  await refused;
});

test('a decoder that hangs is killed, and that is not the picture’s fault', async () => {
  const timer = new AbortController();
  const timeout = vi.spyOn(AbortSignal, 'timeout').mockReturnValue(timer.signal);
  try {
    vi.mocked(spawn).mockClear();
    const failed = expect(toPng(slow())).rejects.toMatchObject({
      name: 'Error',
      message: 'the decoder has not ended after 10 minutes',
    });
    await vi.waitUntil(() => vi.mocked(spawn).mock.results.length > 0);
    expect(timeout).toHaveBeenCalledExactlyOnceWith(600_000);
    timer.abort();
    await failed;
    expect(() => process.kill(decoder().pid!, 0)).toThrow(/ESRCH/);
  } finally {
    timeout.mockRestore();
  }
});

test('a JPEG of more than 100 scans is refused before it is decoded', async () => {
  await expectRejected(scansJpeg(8000, 8000, 2000), /^the JPEG has too many scans: at most 100 are accepted$/);
});

test('scans are counted in the picture itself, not in its metadata or what follows it', async () => {
  const jpeg = await paint(gradient).jpeg({ progressive: true }).toBuffer();
  const scan = Buffer.from([0xff, 0xda]);
  const [start, rest] = [jpeg.subarray(0, 2), jpeg.subarray(2)];
  const comment = Buffer.concat([Buffer.from([0xff, 0xfe, 0x03, 0xea]), Buffer.alloc(1000, scan)]);
  expect(countScans(jpeg)).toBe(10);
  expect(countScans(Buffer.concat([start, comment, rest, Buffer.alloc(1000, scan)]))).toBe(10);
  expect(countScans(await paint(gradient).jpeg().toBuffer())).toBe(1);
  expect(countScans(await paint(gradient).png().toBuffer())).toBe(0);
  expect(countScans(scansJpeg(8000, 8000, 2000))).toBe(2001);
});

test('an abort kills the decoder, and rejects with its reason', async () => {
  vi.mocked(spawn).mockClear();
  const controller = new AbortController();
  const reason = new Error('the task was canceled');
  const aborted = expect(toPng(slow(), controller.signal)).rejects.toBe(reason);
  await vi.waitUntil(() => vi.mocked(spawn).mock.results.length > 0);
  controller.abort(reason);
  await aborted;
  expect(() => process.kill(decoder().pid!, 0)).toThrow(/ESRCH/);
  await expect(toPng(slow(), AbortSignal.abort(reason))).rejects.toBe(reason);
  expect(spawn).toHaveBeenCalledOnce();
});

test.each(['SIGSEGV', 'SIGABRT', 'SIGBUS'] as const)(
  'a decoder that dies of %s makes the picture image_rejected',
  async (signal) => {
    vi.mocked(spawn).mockClear();
    const refused = expect(toPng(slow())).rejects.toMatchObject({
      code: 'image_rejected',
      cause: { message: `decoder: ${signal}` },
    });
    await vi.waitUntil(() => vi.mocked(spawn).mock.results.length > 0);
    decoder().kill(signal);
    await refused;
  },
);

/** The process id of Node in the processes that make up a decoder. */
async function findNode(pid: number): Promise<number> {
  if ((await readFile(`/proc/${pid}/cmdline`, 'utf8')).startsWith(process.execPath)) return pid;
  const [child] = (await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')).split(' ');
  return findNode(Number(child));
}

test.each([
  ['SIGSEGV', 'the picture can’t be decoded'],
  ['SIGXCPU', 'the picture takes too long to decode'],
] as const)(
  'a decoder that dies of %s within its sandbox makes the picture image_rejected',
  async (signal, message) => {
    vi.mocked(spawn).mockClear();
    const refused = expect(toPng(slow())).rejects.toMatchObject({ code: 'image_rejected', message });
    await vi.waitUntil(() => vi.mocked(spawn).mock.results.length > 0);
    // It fails while the sandbox is being built.
    process.kill(await vi.waitFor(() => findNode(decoder().pid!), { interval: 10 }), signal);
    await refused;
  },
);

test('a decoder that is killed from outside is not the picture’s fault', async () => {
  vi.mocked(spawn).mockClear();
  const failed = expect(checkPicture(slow())).rejects.not.toBeInstanceOf(JobError);
  await vi.waitUntil(() => vi.mocked(spawn).mock.results.length > 0);
  decoder().kill('SIGKILL');
  await failed;
});

test('the decoder does not get this process’s environment', async () => {
  vi.mocked(spawn).mockClear();
  await checkPicture(await paint(gradient).png().toBuffer());
  expect(Object.keys(vi.mocked(spawn).mock.calls[0]![2]!.env!)).toEqual(['SHARP', 'VIPS_DISC_THRESHOLD']);
});

test('the first picture of an animation is used', async () => {
  const data = Buffer.concat([RED, GREEN].map((colour) => Buffer.alloc(8 * 8 * 3, Buffer.from(colour))));
  const bytes = await sharp(data, { raw: { width: 8, height: 16, channels: 3, pageHeight: 8 } })
    .gif({ delay: [100, 100] })
    .toBuffer();
  expect((await sharp(bytes).metadata()).pages).toBe(2);
  const png = await convert(bytes);
  expect(await sharp(png).metadata()).toMatchObject({ width: 8, height: 8 });
  expectColour(await pixel(png, 4, 4), RED, 2);
});

test('only pixels are kept: no camera, place, date or colour profile', async () => {
  const bytes = await paint(gradient)
    .withExif({ IFD0: { Artist: 'somebody', Copyright: 'mine' }, IFD3: { GPSLatitude: '51/1 30/1 0/1' } })
    .withIccProfile('p3')
    .withXmp('<x:xmpmeta xmlns:x="adobe:ns:meta/"><secret/></x:xmpmeta>')
    .jpeg()
    .toBuffer();
  const before = await sharp(bytes).metadata();
  expect(before.exif && before.icc && before.xmp).toBeTruthy();
  const png = await convert(bytes);
  const after = await sharp(png).metadata();
  for (const kind of ['exif', 'icc', 'xmp', 'iptc', 'orientation', 'comments'] as const) {
    expect(after[kind], kind).toBeUndefined();
  }
  expect(png.includes('somebody') || png.includes('secret')).toBe(false);
});
