import { hkdfSync } from 'node:crypto';
import { crc32, deflateSync } from 'node:zlib';
import sharp, { type Sharp } from 'sharp';
import { expect, test } from 'vitest';
import { JobError } from '../job.ts';
import { checkPicture, MAX_PICTURE_BYTES, toPng } from './picture.ts';

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
    await checkPicture(bytes);
    const png = await toPng(bytes);
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

  test(`${type}: half of it is refused`, async () => {
    const bytes = await make();
    await expectRejected(bytes.subarray(0, bytes.length / 2));
  });
}

/** Both front doors refuse it. */
async function expectRejected(bytes: Uint8Array, message = /^not a whole picture/) {
  for (const work of [checkPicture, toPng]) {
    const error = await work(bytes).then(
      () => undefined,
      (error) => error,
    );
    expect(error, work.name).toBeInstanceOf(JobError);
    expect(error.code).toBe('image_rejected');
    expect(error.message).toMatch(message);
  }
}

const noise = (bytes: number) => Buffer.from(hkdfSync('sha256', 'noise', '', '', bytes)); // the same each time

const strangers: Record<string, Uint8Array> = {
  nothing: Buffer.alloc(0),
  'one byte': Buffer.from([0xff]),
  text: Buffer.from('I am photo.jpg, honestly.\n'.repeat(100)),
  html: Buffer.from('<!doctype html><title>404</title><p>Not found'),
  svg: Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" height="8"/></svg>'),
  'svg that names a file': Buffer.from(
    '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><image href="file:///etc/hostname" width="8" height="8"/></svg>',
  ),
  pdf: Buffer.from('%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n'),
  ppm: Buffer.from('P3 2 2 255 1 2 3 4 5 6 7 8 9 10 11 12\n'),
  csv: Buffer.from('1,2,3\n4,5,6\n'),
  'random bytes': noise(5000),
  'random bytes after a PNG signature': Buffer.concat([
    Buffer.from([0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10]),
    noise(5000),
  ]),
  'random bytes after a JPEG marker': Buffer.concat([Buffer.from([0xff, 0xd8, 0xff, 0xe0]), noise(5000)]),
};

for (const [what, bytes] of Object.entries(strangers)) {
  test(`${what}: no picture`, () => expectRejected(bytes));
}

test('a PNG with one wrong byte among its pixels is refused', async () => {
  const bytes = await paint(gradient).png().toBuffer();
  const at = bytes.indexOf('IDAT') + 20;
  bytes[at] = bytes[at]! ^ 1;
  await expectRejected(bytes);
});

test('a PNG whose header fails its checksum is refused', async () => {
  const bytes = await paint(gradient).png().toBuffer();
  bytes[19] = W - 1; // the width
  await expectRejected(bytes);
});

/** A grey 1-bit PNG. */
function craftPng(width: number, height: number, compressed: Buffer): Buffer {
  const chunk = (type: string, data: Buffer) => {
    const body = Buffer.concat([Buffer.from(type), data]);
    const frame = Buffer.alloc(8);
    frame.writeUInt32BE(data.length, 0);
    frame.writeUInt32BE(crc32(body), 4);
    return Buffer.concat([frame.subarray(0, 4), body, frame.subarray(4)]);
  };
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header[8] = 1;
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10]);
  return Buffer.concat([signature, chunk('IHDR', header), chunk('IDAT', compressed), chunk('IEND', Buffer.alloc(0))]);
}

test('100 megapixels are refused by their header: what follows is not looked at', async () => {
  const noPixels = deflateSync(Buffer.alloc(10));
  await expectRejected(craftPng(10_000, 10_000, noPixels), /megapixels/);
  await expectRejected(craftPng(100, 100, noPixels), /^not a whole picture/); // the same, small: found when its pixels are read
  const whole = deflateSync(Buffer.alloc(10_000 * (10_000 / 8 + 1)));
  await expectRejected(craftPng(10_000, 10_000, whole), /megapixels/);
});

test('20 MB are a picture, one byte more is not', async () => {
  const jpeg = await paint(gradient).jpeg().toBuffer();
  const padded = Buffer.concat([jpeg, Buffer.alloc(MAX_PICTURE_BYTES + 1 - jpeg.length)]);
  expect(padded).toHaveLength(20_000_001);
  await checkPicture(padded.subarray(0, -1));
  await expectRejected(padded, /larger than 20 MB/);
});

const RED = [220, 30, 30] as const;
const GREEN = [30, 200, 30] as const;
const BLUE = [30, 30, 220] as const;
const GREY = [128, 128, 128] as const;

/** Where the stored quarters (left top, right top, left bottom, right bottom) are seen, by EXIF orientation. */
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
    const png = await toPng(jpeg);
    const { info } = await pixels(png);
    const [width, height] = Number(orientation) >= 5 ? [H, W] : [W, H];
    expect(info).toMatchObject({ width, height });
    for (const [i, colour] of quarters.entries()) {
      const x = Math.floor(width * (i % 2 ? 0.75 : 0.25));
      const y = Math.floor(height * (i < 2 ? 0.25 : 0.75));
      expectColour(await pixel(png, x, y), colour, 6);
    }
  });
}

test('alpha comes out over white', async () => {
  const alphas = [0, 128, 255];
  const rgba = Buffer.from(alphas.flatMap((alpha) => [...RED, alpha]));
  const bytes = await sharp(rgba, { raw: { width: 3, height: 1, channels: 4 } })
    .png()
    .toBuffer();
  const png = await toPng(bytes);
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
  const png = await toPng(bytes);
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
    const png = await toPng(bytes);
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
  const png = await toPng(bytes);
  expectColour(await pixel(png, 0, 0), [255, 255, 255], 0);
  expectColour(await pixel(png, 1, 0), [100, 100, 100], 1);
});

test('CMYK becomes rgb', async () => {
  const bytes = await paint(() => [40, 120, 60])
    .toColourspace('cmyk')
    .jpeg({ quality: 100 })
    .toBuffer();
  expect(await sharp(bytes).metadata()).toMatchObject({ space: 'cmyk', channels: 4 });
  const png = await toPng(bytes);
  expect(await sharp(png).metadata()).toMatchObject(eightBitRgb);
  expectColour(await pixel(png, 5, 5), [40, 120, 60], 24); // printing inks lack some colours
});

test('a palette becomes rgb', async () => {
  const bytes = await paint(() => RED)
    .png({ palette: true })
    .toBuffer();
  const png = await toPng(bytes);
  expect(await sharp(png).metadata()).toMatchObject(eightBitRgb);
  expectColour(await pixel(png, 5, 5), RED, 1);
});

test('a wider colour space is brought to sRGB, not just relabelled', async () => {
  const bytes = await paint(() => RED)
    .withIccProfile('p3')
    .png()
    .toBuffer();
  expect(await pixel(bytes, 5, 5)).not.toEqual(RED); // stored as P3's numbers
  expectColour(await pixel(await toPng(bytes), 5, 5), RED, 4);
});

test('of an animation the first picture counts', async () => {
  const data = Buffer.concat([RED, GREEN].map((colour) => Buffer.alloc(8 * 8 * 3, Buffer.from(colour))));
  const bytes = await sharp(data, { raw: { width: 8, height: 16, channels: 3, pageHeight: 8 } })
    .gif({ delay: [100, 100] })
    .toBuffer();
  expect((await sharp(bytes).metadata()).pages).toBe(2);
  await checkPicture(bytes);
  const png = await toPng(bytes);
  expect(await sharp(png).metadata()).toMatchObject({ width: 8, height: 8 });
  expectColour(await pixel(png, 4, 4), RED, 2);
});

test('nothing but pixels survives: no camera, place, date or colour profile', async () => {
  const bytes = await paint(gradient)
    .withExif({ IFD0: { Artist: 'somebody', Copyright: 'mine' }, IFD3: { GPSLatitude: '51/1 30/1 0/1' } })
    .withIccProfile('p3')
    .withXmp('<x:xmpmeta xmlns:x="adobe:ns:meta/"><secret/></x:xmpmeta>')
    .jpeg()
    .toBuffer();
  const before = await sharp(bytes).metadata();
  expect(before.exif && before.icc && before.xmp).toBeTruthy();
  const png = await toPng(bytes);
  const after = await sharp(png).metadata();
  for (const kind of ['exif', 'icc', 'xmp', 'iptc', 'orientation', 'comments'] as const) {
    expect(after[kind], kind).toBeUndefined();
  }
  expect(png.includes('somebody') || png.includes('secret')).toBe(false);
});
