/** Colours that a file describes by numbers, not by an ICC profile. */
import { readFile } from 'node:fs/promises';
import { deflateSync } from 'node:zlib';
import sharp from 'sharp';
import { expect, test } from 'vitest';
import { hasBrowser, launchBrowser } from '../../infra/tools/browser.ts';
import { craftPng, pngChunk } from '../../test/support/malicious-pictures.ts';
import { JobError } from '../job.ts';
import { decode } from './decode.mjs';
import { checkPicture, toPng } from './picture.ts';

const convert = (bytes: Uint8Array) =>
  decode(bytes, { png: true, maxPixels: 64_000_000, maxSide: 65_535, maxScans: 100 });

/** RGB, row by row. */
const pixelsOf = async (bytes: Uint8Array) => [
  ...(await sharp(await convert(bytes))
    .raw()
    .toBuffer()),
];

const uint32 = (...values: number[]) => {
  const bytes = Buffer.alloc(4 * values.length);
  for (const [i, value] of values.entries()) bytes.writeUInt32BE(value, 4 * i);
  return bytes;
};
const cicp = (primaries: number, transfer: number) => pngChunk('cICP', Buffer.from([primaries, transfer, 0, 1]));
const gama = (gamma: number) => pngChunk('gAMA', uint32(100_000 * gamma));
/** x and y of white, red, green, blue. */
const chrm = (...xy: number[]) => pngChunk('cHRM', uint32(...xy.map((value) => Math.round(100_000 * value))));
const P3_CHRM = [0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06];
const srgb = pngChunk('sRGB', Buffer.from([0]));
const clli = (nits: number) => pngChunk('cLLI', uint32(10_000 * nits, 10_000));
/** The display's most nits. */
const mdcv = (nits: number) => pngChunk('mDCV', Buffer.concat([Buffer.alloc(16), uint32(10_000 * nits, 1)]));

interface Samples {
  depth?: 8 | 16;
  /** PNG's colour type. */
  colour?: 0 | 2 | 3 | 4 | 6;
}

/** A PNG of one row. */
function png(pixels: readonly (readonly number[])[], extra: Buffer[], { depth = 8, colour = 2 }: Samples = {}) {
  const samples = pixels.flat();
  const row = Buffer.alloc(1 + (samples.length * depth) / 8);
  for (const [i, sample] of samples.entries()) {
    if (depth === 16) row.writeUInt16BE(sample, 1 + 2 * i);
    else row[1 + i] = sample;
  }
  return craftPng(pixels.length, 1, { depth, colour, extra, data: deflateSync(row) });
}

/** An ICC profile of Display P3, as a PNG's chunk. */
async function p3Profile() {
  const bytes = await sharp(png([[0, 0, 0]], []))
    .withIccProfile('p3')
    .png()
    .toBuffer();
  const at = bytes.indexOf('iCCP') - 4;
  return bytes.subarray(at, at + 12 + bytes.readUInt32BE(at));
}

const RED = [220, 30, 30] as const;
const GREEN = [100, 140, 60] as const;
const BLUE = [30, 60, 200] as const;
const COLOURS = [RED, GREEN, BLUE];
const STORED = COLOURS.flat();

// From the standards’ formulas, with the matrices of CSS Color 4 (Display P3) and BT.2087 (BT.2020).
const FROM_P3 = [240, 0, 0, 88, 141, 45, 17, 61, 208];
const FROM_P3_GAMMA_22 = [241, 0, 0, 87, 143, 41, 6, 58, 209];
const FROM_LINEAR = [239, 96, 96, 168, 196, 133, 96, 133, 229];
const FROM_GAMMA_18 = [227, 40, 40, 119, 158, 77, 40, 77, 210];
const FROM_BT1886 = [218, 18, 18, 91, 134, 49, 18, 49, 197];

/** The largest difference is one. */
function expectPixels(actual: number[], expected: number[]) {
  const difference = Math.max(...actual.map((value, i) => Math.abs(value - expected[i]!)));
  expect(actual).toHaveLength(expected.length);
  expect(difference, `${actual} instead of ${expected}`).toBeLessThanOrEqual(1);
}

test.each<[string, Buffer[], number[]]>([
  ['cICP of Display P3', [cicp(12, 13)], FROM_P3],
  ['cICP of sRGB', [cicp(1, 13)], STORED],
  ['cICP of BT.709, which is shown by BT.1886', [cicp(1, 1)], FROM_BT1886],
  ['cICP of linear light', [cicp(1, 8)], FROM_LINEAR],
  ['gAMA of linear light', [gama(1)], FROM_LINEAR],
  ['gAMA of 1/1.8', [gama(1 / 1.8)], FROM_GAMMA_18],
  ['gAMA of 1/2.2, which is sRGB', [gama(0.45455)], STORED],
  ['gAMA of 0, which is impossible', [gama(0)], STORED],
  ['gAMA and cHRM', [gama(0.45455), chrm(...P3_CHRM)], FROM_P3_GAMMA_22],
  ['cHRM that is impossible', [gama(1), chrm(0, 0, 0, 0, 0, 0, 0, 0)], STORED],
  ['cHRM without gAMA', [chrm(...P3_CHRM)], STORED],
  ['cICP before sRGB and gAMA', [cicp(12, 13), srgb, gama(1)], FROM_P3],
  ['cICP of sRGB before gAMA', [cicp(1, 13), gama(1)], STORED],
  ['sRGB before gAMA and cHRM', [srgb, gama(1), chrm(...P3_CHRM)], STORED],
  ['a reserved cICP, which is ignored', [cicp(3, 13), gama(1)], FROM_LINEAR],
  ['a cICP that is too short, which is ignored', [pngChunk('cICP', Buffer.from([12])), gama(1)], FROM_LINEAR],
])('a PNG with %s', async (_, extra, expected) => {
  expectPixels(await pixelsOf(png(COLOURS, extra)), expected);
  const twice = COLOURS.map((colour) => colour.map((value) => 257 * value));
  expectPixels(await pixelsOf(png(twice, extra, { depth: 16 })), expected);
});

test('cICP has precedence over a PNG’s ICC profile, and the profile over gAMA', async () => {
  const profile = await p3Profile();
  expectPixels(await pixelsOf(png(COLOURS, [profile, gama(1)])), FROM_P3);
  expectPixels(await pixelsOf(png(COLOURS, [cicp(1, 8), profile])), FROM_LINEAR);
  expectPixels(await pixelsOf(png(COLOURS, [cicp(1, 13), profile])), STORED);
});

test('grey, a palette, alpha and orientation of a PNG are kept', async () => {
  const linear = [gama(1)];
  expectPixels(await pixelsOf(png([[30], [200]], linear, { colour: 0 })), [96, 96, 96, 229, 229, 229]);
  expectPixels(await pixelsOf(png([[7710], [51_400]], linear, { colour: 0, depth: 16 })), [96, 96, 96, 229, 229, 229]);
  const palette = pngChunk('PLTE', Buffer.from(STORED));
  expectPixels(await pixelsOf(png([[0], [1], [2]], [...linear, palette], { colour: 3 })), FROM_LINEAR);
  const halves = [...RED.map((value) => 257 * value), 0x8080];
  for (const bytes of [png([[...RED, 128]], linear, { colour: 6 }), png([halves], linear, { colour: 6, depth: 16 })]) {
    expectPixels(await pixelsOf(bytes), [247, 175, 175]); // half of FROM_LINEAR, half white
  }
  expectPixels(await pixelsOf(png([[30, 0]], linear, { colour: 4 })), [255, 255, 255]);
  const turned = await sharp(png(COLOURS, [])).withMetadata({ orientation: 6 }).png().toBuffer();
  const bytes = Buffer.concat([turned.subarray(0, 33), cicp(12, 13), turned.subarray(33)]);
  expect(await sharp(await convert(bytes)).metadata()).toMatchObject({ width: 1, height: 3 });
});

const of16Bits = (...values: number[]) => values.map((value) => Math.round(65_535 * value));
const HDR = [of16Bits(0.5, 0.45, 0.4), of16Bits(0.58068, 0.58068, 0.58068), of16Bits(0.6, 0.7, 0.65)];
// 203 nits, white, are 0.58068 of PQ and 0.75 of HLG. They come out as half the light of SDR’s white, 188.
const FROM_PQ = [147, 99, 76, 188, 188, 188, 35, 248, 190];
const FROM_PQ_400_NITS = [180, 123, 94, 229, 229, 229, 38, 255, 203];

test.each<[string, Buffer[], number[]]>([
  ['PQ', [cicp(9, 16)], FROM_PQ],
  ['PQ with no brightest pixel', [cicp(9, 16), clli(0)], FROM_PQ],
  ['PQ with pixels of at most 400 nits', [cicp(9, 16), clli(400), mdcv(4000)], FROM_PQ_400_NITS],
  ['PQ of a display of 400 nits', [cicp(9, 16), mdcv(400)], FROM_PQ_400_NITS],
  ['HLG', [cicp(9, 18)], [104, 87, 77, 120, 120, 120, 104, 166, 143]],
])('%s is mapped to SDR', async (_, extra, expected) => {
  expectPixels(await pixelsOf(png(HDR, extra, { depth: 16 })), expected);
});

/** An AVIF of the colours from left to right, 16×16 pixels each. */
const avif = (bitdepth: 8 | 10 | 12 = 8, colours: readonly (readonly number[])[] = COLOURS) =>
  sharp(Buffer.from(colours.flat()), { raw: { width: colours.length, height: 1, channels: 3 } })
    .resize(16 * colours.length, 16, { kernel: 'nearest' })
    .avif({ lossless: true, effort: 0, bitdepth, chromaSubsampling: '4:4:4' });

/** The AVIF with other colours in its only colour box. */
function withNclx(bytes: Buffer, primaries: number, transfer: number) {
  const copy = Buffer.from(bytes);
  copy.set([0, primaries, 0, transfer], copy.indexOf('colrnclx') + 8);
  return copy;
}

const NCLX_OF_PQ = Buffer.from('\0\0\0\x13colrnclx\0\x09\0\x10\0\0\x80', 'latin1');

/** Adds a property to the only item. The box `meta` is replaced by a longer one at the end, so that no other box moves. */
function withProperty(bytes: Buffer, property: Buffer) {
  const start = bytes.indexOf('meta') - 4;
  const meta = bytes.subarray(start, start + bytes.readUInt32BE(start));
  const ipma = meta.indexOf('ipma') - 4; // the last box, after the properties
  const count = ipma + property.length + 18;
  const longer = Buffer.concat([
    meta.subarray(0, ipma),
    property,
    meta.subarray(ipma),
    Buffer.from([meta[ipma + 18]! + 1]),
  ]);
  longer[count]!++;
  const { length } = property;
  for (const [type, growth] of Object.entries({ meta: length + 1, iprp: length + 1, ipco: length, ipma: 1 })) {
    const at = longer.indexOf(type) - 4;
    longer.writeUInt32BE(longer.readUInt32BE(at) + growth, at);
  }
  const rest = Buffer.from(bytes);
  rest.write('free', start + 4);
  return Buffer.concat([rest, longer]);
}

/** The first row of the middles of the squares. */
async function middles(bytes: Uint8Array) {
  const { data, info } = await sharp(await convert(bytes))
    .raw()
    .toBuffer({ resolveWithObject: true });
  const squares = Array.from({ length: info.width / 16 }, (_, i) => 3 * (8 * info.width + 16 * i + 8));
  return squares.flatMap((at) => [...data.subarray(at, at + 3)]);
}

test.each<[string, number, number, number[]]>([
  ['Display P3', 12, 13, FROM_P3],
  ['sRGB', 1, 13, STORED],
  ['no description', 2, 2, STORED],
  ['no curve, which is sRGB’s', 12, 2, FROM_P3],
  ['BT.709, which is shown as sRGB', 1, 1, STORED],
  ['linear light', 1, 8, FROM_LINEAR],
])('an AVIF with nclx of %s', async (_, primaries, transfer, expected) => {
  expectPixels(await middles(withNclx(await avif().toBuffer(), primaries, transfer)), expected);
  const tenBits = withNclx(await avif(10).toBuffer(), primaries, transfer);
  const difference = (await middles(tenBits)).map((value, i) => Math.abs(value - expected[i]!));
  expect(Math.max(...difference)).toBeLessThanOrEqual(4); // sharp writes 8 bits as four times their value, of 1023
});

test('an AVIF of PQ is mapped to SDR', async () => {
  const bytes = withNclx(await avif(8, [[128, 115, 102]]).toBuffer(), 9, 16);
  expectPixels(await middles(bytes), [148, 100, 76]);
  const brightest = Buffer.from('\0\0\0\x0cclli\x01\x90\0\x10', 'latin1'); // 400 nits
  expectPixels(await middles(withProperty(bytes, brightest)), [182, 123, 94]);
  // By libaom, with 10 bits: 220,30,30 · 30,180,60 · 30,60,200 · 230,210,40 of 255.
  const { data, info } = await sharp(await convert(await readFile(new URL('testdata/pq-10-bit.avif', import.meta.url))))
    .raw()
    .toBuffer({ resolveWithObject: true });
  const at = (x: number, y: number) => [...data.subarray(3 * (y * info.width + x)).subarray(0, 3)];
  expectPixels([at(75, 50), at(225, 50), at(75, 150), at(225, 150)].flat(), [
    ...[255, 0, 0, 0, 255, 0],
    ...[0, 0, 255, 255, 173, 0],
  ]);
});

test('an AVIF’s ICC profile has precedence over nclx', async () => {
  const bytes = await avif().withIccProfile('p3').toBuffer();
  expect(bytes.includes('nclx')).toBe(false);
  expectPixels(await middles(bytes), STORED);
  expectPixels(await middles(withProperty(bytes, NCLX_OF_PQ)), STORED);
});

test('an animated AVIF is a picture: its first frame', async () => {
  const bytes = await readFile(new URL('testdata/animation.avif', import.meta.url));
  expect(bytes.toString('latin1', 8, 12)).toBe('avis');
  const [result, size] = await Promise.all([toPng(bytes), checkPicture(bytes)]);
  expect(await sharp(result).metadata()).toMatchObject(size);
  const { data, info } = await sharp(result).raw().toBuffer({ resolveWithObject: true });
  expect(info).toMatchObject({ width: 300, height: 200 });
  expectPixels([...data.subarray(0, 3)], [...RED]);
});

/** Earlier versions map HDR to SDR by other curves. */
const HDR_VERSION = 156;

test.skipIf(!hasBrowser)('Chromium shows the same colours', async () => {
  const levels = [0, 50, 100, 150, 200, 255];
  const grid = levels.flatMap((r) => levels.flatMap((g) => levels.map((b) => [r, g, b])));
  const small = await avif().toBuffer();
  const pictures: Record<string, Buffer> = Object.fromEntries([
    ...[1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 22].map((code) => [`primaries ${code}`, png(grid, [cicp(code, 13)])]),
    ...[1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 17].map((code) => [`curve ${code}`, png(grid, [cicp(12, code)])]),
    ...[0.3, 0.43, 0.44, 0.47, 0.48, 1].map((gamma) => [`gAMA ${gamma}`, png(grid, [gama(gamma)])]),
    ['cHRM', png(grid, [gama(0.55), chrm(0.3457, 0.3585, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)])],
    ['cICP and iCCP', png(grid, [cicp(9, 13), await p3Profile()])],
    ...[1, 2, 4, 5, 6, 7, 8, 9, 11, 12, 22].map((code) => [`avif ${code}`, withNclx(small, code, 13)]),
    ...[1, 2, 4, 5, 6, 7, 8, 13, 14, 15, 17].map((code) => [`avif curve ${code}`, withNclx(small, 12, code)]),
  ]);
  const browser = await launchBrowser();
  try {
    if (Number.parseInt(browser.version(), 10) >= HDR_VERSION) {
      Object.assign(pictures, { pq: png(grid, [cicp(9, 16)]), hlg: png(grid, [cicp(9, 18)]) });
      Object.assign(pictures, { 'pq 600': png(grid, [cicp(12, 16), clli(600)]), 'avif hlg': withNclx(small, 9, 18) });
    }
    const page = await browser.newPage();
    for (const [name, bytes] of Object.entries(pictures)) {
      const type = name.startsWith('avif') ? 'avif' : 'png';
      const shown = await page.evaluate(
        async (url) => {
          const image = new Image();
          image.src = url;
          await image.decode();
          const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
          const context = canvas.getContext('2d')!;
          context.drawImage(image, 0, 0);
          return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
        },
        `data:image/${type};base64,${bytes.toString('base64')}`,
      );
      const expected = shown.filter((_, i) => i % 4 < 3);
      const differences = (await pixelsOf(bytes)).map((value, i) => Math.abs(value - expected[i]!));
      expect(Math.max(...differences), name).toBeLessThanOrEqual(2);
    }
  } finally {
    await browser.close();
  }
});

test('an AVIF with another first brand is a picture', async () => {
  const bytes = await avif().toBuffer();
  bytes.write('miaf', 8);
  expectPixels(await middles(bytes), STORED);
});

test('CMYK without a profile is converted as browsers do', async () => {
  const bytes = await sharp(Buffer.from(STORED), { raw: { width: 3, height: 1, channels: 3 } })
    .resize(48, 16, { kernel: 'nearest' })
    .toColourspace('cmyk')
    .jpeg({ quality: 100, chromaSubsampling: '4:4:4' })
    .toBuffer();
  expect(await sharp(bytes).metadata()).toMatchObject({ space: 'cmyk', channels: 4, hasProfile: false });
  const inks = await sharp(bytes).pipelineColourspace('cmyk').toColourspace('cmyk').raw().toBuffer();
  const expected = [8, 24, 40].flatMap((x) => {
    const [c, m, y, k] = inks.subarray(4 * (8 * 48 + x));
    return [c!, m!, y!].map((ink) => ((255 - ink) * (255 - k!)) / 255);
  });
  expectPixels(await middles(bytes), expected);
});

test('a TIFF whose compression is not supported is refused with that reason', async () => {
  const bytes = await sharp(Buffer.from(STORED), { raw: { width: 3, height: 1, channels: 3 } })
    .tiff({ compression: 'none' })
    .toBuffer();
  const compression = bytes.indexOf(Buffer.from([3, 1, 3, 0, 1, 0, 0, 0, 1, 0]));
  for (const [code, reason] of [
    [50_000, 'ZSTD compression support is not configured'],
    [34_925, 'LZMA compression support is not configured'],
    [12_345, 'Compression scheme 12345 strip decoding is not implemented'],
  ] as const) {
    bytes.writeUInt16LE(code, compression + 8);
    for (const work of [checkPicture, toPng]) {
      const error = await work(bytes).catch((error) => error);
      expect(error).toBeInstanceOf(JobError);
      expect(error.message).toBe(`the picture can’t be decoded (${reason}): save it as JPEG or PNG`);
    }
  }
});
