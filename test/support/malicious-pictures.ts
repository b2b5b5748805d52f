/** For tests: malicious and damaged pictures, each of which must be refused. */
import { readFileSync } from 'node:fs';
import { crc32, deflateSync, gzipSync } from 'node:zlib';
import sharp from 'sharp';

const zeros = (bytes: number) => deflateSync(Buffer.alloc(bytes), { level: 9 });

const PNG_SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10]);

/** A PNG's chunk, with its right checksum. */
export function pngChunk(type: string, data: Uint8Array = Buffer.alloc(0)): Buffer {
  const body = Buffer.concat([Buffer.from(type), data]);
  return Buffer.concat([uint32(data.length), body, uint32(crc32(body))]);
}

function uint32(value: number) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

/** A PNG of these rows, each a filter byte and its samples, already compressed. Colour 0 is grey, 2 RGB, 6 RGBA. */
export function craftPng(
  width: number,
  height: number,
  { depth = 8, colour = 2, interlaced = false, extra = [] as Buffer[], data = Buffer.alloc(0) } = {},
): Buffer {
  const kind = Buffer.from([depth, colour, 0, 0, Number(interlaced)]);
  const header = Buffer.concat([uint32(width), uint32(height), kind]);
  const chunks = [pngChunk('IHDR', header), ...extra, pngChunk('IDAT', data), pngChunk('IEND')];
  return Buffer.concat([PNG_SIGNATURE, ...chunks]);
}

/** A marker segment of a JPEG. */
function segment(marker: number, data: number[]): Buffer {
  const length = data.length + 2;
  return Buffer.from([0xff, marker, length >> 8, length & 0xff, ...data]);
}

/** A grey progressive JPEG with many scans, each of which costs time to decode but changes nothing in a hundred bytes. */
export function scansJpeg(width: number, height: number, scans: number): Buffer {
  const blocks = Math.ceil(width / 8) * Math.ceil(height / 8);
  const oneCode = [1, ...Array(15).fill(0)]; // a Huffman table of a single code, the bit 0
  const head = Buffer.concat([
    Buffer.from([0xff, 0xd8]),
    segment(0xdb, [0, ...Array(64).fill(1)]),
    segment(0xc2, [8, height >> 8, height & 255, width >> 8, width & 255, 1, 1, 0x11, 0]),
    segment(0xc4, [0x00, ...oneCode, 0]), // DC: no difference
    segment(0xc4, [0x10, ...oneCode, 0xe0]), // AC: the next 16,384 blocks and as many more as 14 bits say are empty
    segment(0xda, [1, 1, 0, 0, 0, 0]),
    Buffer.alloc(Math.ceil(blocks / 8)),
  ]);
  let bits = '';
  for (let left = blocks; left > 0; left -= 32_767) bits += `0${'1'.repeat(14)}`;
  bits = bits.padEnd(Math.ceil(bits.length / 8) * 8, '1');
  const bytes = bits.match(/.{8}/g)!.map((eight) => Number.parseInt(eight, 2));
  const scan = Buffer.concat([
    segment(0xda, [1, 1, 0, 1, 63, 0]),
    Buffer.from(bytes.flatMap((byte) => (byte === 255 ? [255, 0] : [byte]))),
  ]);
  return Buffer.concat([head, ...Array(scans).fill(scan), Buffer.from([0xff, 0xd9])]);
}

/** A little-endian TIFF of one directory; `next` says where the next one is. */
function craftTiff(tags: [tag: number, type: number, value: number][], { next = 0 } = {}) {
  const directory = Buffer.alloc(2 + 12 * tags.length + 4);
  directory.writeUInt16LE(tags.length);
  for (const [i, [tag, type, value]] of tags.entries()) {
    directory.writeUInt16LE(tag, 2 + 12 * i);
    directory.writeUInt16LE(type, 4 + 12 * i);
    directory.writeUInt32LE(1, 6 + 12 * i);
    directory.writeUInt32LE(value, 10 + 12 * i);
  }
  directory.writeUInt32LE(next, directory.length - 4);
  return Buffer.concat([Buffer.from([0x49, 0x49, 42, 0, 8, 0, 0, 0]), directory]);
}
const tiffTags = (width: number, height: number, more: [number, number, number][] = []) =>
  [
    [256, 4, width],
    [257, 4, height],
    [258, 3, 8],
    [259, 3, 1],
    [262, 3, 1],
    [273, 4, 8 + 2 + 12 * (8 + more.length) + 4], // the strip follows the directory
    [278, 4, height],
    [279, 4, width * height],
    ...more,
  ] as [number, number, number][];

function patched(bytes: Buffer, at: number, ...values: number[]): Buffer {
  const copy = Buffer.from(bytes);
  copy.set(values, at);
  return copy;
}
/** The marker of a JPEG's size and components. */
const START_OF_FRAME = [0xff, 0xc0];

function replaced(bytes: Buffer, from: string | number[], to: string | number[], offset = 0): Buffer {
  const at = bytes.indexOf(Buffer.from(from as string));
  if (at < 0) throw new Error('nothing to replace');
  return patched(bytes, at + offset, ...(typeof to === 'string' ? Buffer.from(to) : to));
}

/** Smooth colours with some noise. */
export function sample(width = 96, height = 64) {
  const data = Buffer.alloc(width * height * 3);
  for (let i = 0; i < data.length; i++) data[i] = ((i * 7919) % 61) + ((i / 3) % width) + Math.floor(i / 3 / width);
  return sharp(data, { raw: { width, height, channels: 3 } });
}

/** A whole picture of each type that is accepted. */
export async function validPictures() {
  return {
    jpeg: await sample().jpeg().toBuffer(),
    'progressive jpeg': await sample().jpeg({ progressive: true }).toBuffer(),
    png: await sample().png().toBuffer(),
    'interlaced png': await sample().png({ progressive: true, palette: true }).toBuffer(),
    webp: await sample().webp().toBuffer(),
    'lossless webp': await sample().ensureAlpha(0.5).webp({ lossless: true }).toBuffer(),
    avif: await sample().avif({ effort: 0 }).toBuffer(),
    gif: await sample().gif().toBuffer(),
    tiff: await sample().tiff({ compression: 'lzw' }).toBuffer(),
    'jpeg tiff': await sample().tiff({ compression: 'jpeg', tile: true, tileWidth: 32, tileHeight: 32 }).toBuffer(),
  };
}

/** What is no picture, or not of an accepted type: text, or bytes in hexadecimal digits. */
const NOT_PICTURES: Record<string, string | { hex: string }> = JSON.parse(
  readFileSync(new URL('testdata/not-pictures.json', import.meta.url), 'utf8'),
);

const notPictures = ({ png }: Record<'png', Buffer>): Record<string, Buffer> => ({
  ...Object.fromEntries(
    Object.entries(NOT_PICTURES).map(([name, content]) => [
      name,
      typeof content === 'string' ? Buffer.from(content) : Buffer.from(content.hex, 'hex'),
    ]),
  ),
  'svg with an entity bomb': Buffer.from(
    `<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa">${'bcdefghi'.replace(/./g, (name, i) => `<!ENTITY ${name} "${`&${'abcdefgh'[i]};`.repeat(10)}">`)}]><svg xmlns="http://www.w3.org/2000/svg"><text>&i;</text></svg>`,
  ),
  fits: Buffer.from(
    `${'SIMPLE  =                    T'.padEnd(80)}${'BITPIX  =                    8'.padEnd(80)}${'END'.padEnd(2720)}`,
  ),
  ico: Buffer.concat([Buffer.from('00000100010001010000010020006300000016000000', 'hex'), png]),
  'html that ends with a png': Buffer.concat([Buffer.from('<!doctype html><script>alert(1)</script>'), png]),
  'a png after a blank': Buffer.concat([Buffer.from(' '), png]),
  'a gzipped png': gzipSync(png),
});

/** Pictures of accepted types that are malformed, or too large. */
function brokenPictures(valid: Record<'jpeg' | 'png' | 'webp' | 'avif' | 'gif' | 'tiff', Buffer>) {
  const { jpeg, png, webp, avif, gif, tiff } = valid;
  const avifSize = 'ispe\0\0\0\0'; // then width and height, 32 bits each
  return {
    'png: wrong checksum of the header': patched(png, 29, png[29]! ^ 1),
    'png: wrong checksum of the pixels': patched(png, png.indexOf('IEND') - 8, png[png.indexOf('IEND') - 8]! ^ 1),
    'png: 100,000×100,000': craftPng(100_000, 100_000, { data: zeros(100) }),
    'png: 2³¹−1 × 2³¹−1': craftPng(2 ** 31 - 1, 2 ** 31 - 1, { data: zeros(100) }),
    'png: 1×64,000,000, all there': craftPng(1, 64_000_000, { depth: 1, colour: 0, data: zeros(128_000_000) }),
    'png: 100 megapixels, all there': craftPng(10_000, 10_000, { depth: 1, colour: 0, data: zeros(10_000 * 1251) }),
    'png: no pixels wide': craftPng(0, 5, { data: zeros(100) }),
    'png: no such depth': craftPng(4, 4, { depth: 3, data: zeros(100) }),
    'png: no such colour': craftPng(4, 4, { colour: 5, data: zeros(100) }),
    'png: no pixels': Buffer.concat([png.subarray(0, 33), pngChunk('IEND')]),
    'png: a chunk longer than the file': patched(png, 33, 0x7f, 0xff, 0xff, 0xff),
    'png: pixels that are no zlib': craftPng(4, 4, { data: Buffer.from('pixels, honestly') }),
    'png: a palette picture without palette': craftPng(4, 4, { colour: 3, data: zeros(20) }),

    'jpeg: 65,535×65,535': scansJpeg(65_535, 65_535, 0),
    'jpeg: 101 scans': scansJpeg(8, 8, 100), // and one of DC
    'jpeg: 0×0': replaced(jpeg, START_OF_FRAME, [0, 0, 0, 0], 5),
    'jpeg: no tables': Buffer.concat([jpeg.subarray(0, 2), jpeg.subarray(jpeg.indexOf(Buffer.from(START_OF_FRAME)))]),
    'jpeg: a segment that goes on beyond the end': Buffer.from([0xff, 0xd8, 0xff, 0xe1, 0xff, 0xff, 0x45, 0x78]),
    'jpeg: no such sampling': replaced(jpeg, START_OF_FRAME, [0xff], 11),

    'gif: 0×0': Buffer.concat([patched(gif, 6, 0, 0, 0, 0).subarray(0, 13), Buffer.from([0x3b])]),
    'gif: no picture inside': Buffer.concat([gif.subarray(0, 13 + 3 * 2 ** ((gif[10]! & 7) + 1)), Buffer.from([0x3b])]),

    'webp: cut short by its own size': patched(webp, 4, 20, 0, 0, 0),
    'webp: of another size than its frame': patched(webp, 16, 0xff, 0xff, 0xff, 0x7f),
    'webp: an animation without frames': Buffer.from(
      'RIFF\x24\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\x5f\0\0\x3f\0\0ANIM\x06\0\0\0\0\0\0\0\0\0',
      'latin1',
    ),
    'webp: 16,384×16,384 of nothing': Buffer.from(
      'RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x3f\0\xff\x3f\0',
      'latin1',
    ),

    'tiff: no directory': Buffer.from([0x49, 0x49, 42, 0, 0, 0, 0, 0]),
    'tiff: a directory beyond the end': Buffer.from([0x49, 0x49, 42, 0, 0xff, 0xff, 0xff, 0x7f]),
    'tiff: directories in a circle, without pixels': craftTiff([[254, 4, 0]], { next: 8 }),
    'tiff: pixels beyond the end': craftTiff(tiffTags(64, 64)),
    'tiff: pixels in another file': craftTiff(
      tiffTags(64, 64).map(([tag, type, value]) => (tag === 273 ? [tag, type, 0xfffffff0] : [tag, type, value])),
    ),
    'tiff: 4 gigapixels': craftTiff(tiffTags(65_535, 65_535)),
    'tiff: no pixels wide': craftTiff(tiffTags(0, 64)),
    'tiff: tiles larger than memory': craftTiff(
      tiffTags(64, 64, [
        [322, 4, 0x7ffffff0],
        [323, 4, 0x7ffffff0],
        [324, 4, 8],
        [325, 4, 100],
      ]),
    ),
    'tiff: a compression that nobody knows': replaced(tiff, [0x03, 0x01, 3, 0, 1, 0, 0, 0], [0x39, 0x30], 8),

    'avif: 65,535×65,535': replaced(avif, avifSize, [0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff], 8),
    'avif: other pixels than it says': replaced(avif, avifSize, [0, 0, 0x10, 0, 0, 0, 0x10, 0], 8),
    'avif: its pixels beyond the end': replaced(avif, 'iloc', [0xff, 0xff], 22),
    'avif: HEVC inside': replaced(replaced(avif, 'av01', 'hvc1'), 'av1C', 'hvcC'),
    'avif: its own thumbnail, in a circle': replaced(avif, 'av01', 'iden'),
    'avif: a grid of nothing': replaced(avif, 'av01', 'grid'),
    'avif: an overlay of nothing': replaced(avif, 'av01', 'iovl'),
  };
}

/** Pictures that must be refused. Half of them go through each entrance: the API's (odd ones) and the worker's (even ones). */
export async function maliciousPictures() {
  const valid = await validPictures();
  const truncated = Object.entries(valid).flatMap(([type, bytes]) =>
    [0.05, 0.3, 0.6, 0.9].map((part) => ({
      name: `${type}, ${100 * part} % of it`,
      bytes: bytes.subarray(0, Math.floor(bytes.length * part)),
    })),
  );
  const named = { ...notPictures(valid), ...brokenPictures(valid) };
  return { crafted: Object.entries(named).map(([name, bytes]) => ({ name, bytes })), truncated };
}

/** Small files that decompress to large data, each harmless if the data is not kept. */
export function swellingPictures() {
  const zeros100 = zeros(100_000_000);
  const pixel = (...extra: Buffer[]) => craftPng(1, 1, { colour: 0, extra, data: deflateSync(Buffer.from([0, 77])) });
  const keyword = (text: string) => Buffer.from(text, 'latin1');
  const frame = Buffer.from([0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x44, 1, 0]);
  return Object.entries({
    'png: 100 MB of pixels for a single one': craftPng(1, 1, { colour: 0, data: zeros100 }),
    'png: 100 MB of comment': pixel(pngChunk('zTXt', Buffer.concat([keyword('Comment\0\0'), zeros100]))),
    'png: 100 MB of colour profile': pixel(pngChunk('iCCP', Buffer.concat([keyword('x\0\0'), zeros100]))),
    'png: 20 MB of XMP, twice': pixel(
      ...Array(10).fill(pngChunk('iTXt', Buffer.concat([keyword('XML:com.adobe.xmp\0\x01\0\0\0'), zeros(20_000_000)]))),
    ),
    'png: 100,000 comments': pixel(Buffer.concat(Array(100_000).fill(pngChunk('tEXt', keyword('a\0'))))),
    'gif: 100,000 frames': Buffer.concat([
      keyword('GIF89a\x01\0\x01\0\xf0\0\0\0\0\0\xff\xff\xff'),
      ...Array(100_000).fill(frame),
      Buffer.from([0x3b]),
    ]),
    'jpeg: 100 scans': scansJpeg(1000, 1000, 99),
  }).map(([name, bytes]) => ({ name, bytes }));
}
