/**
 * Decodes one untrusted picture in a process of its own, so that a picture that crashes libvips, or keeps it busy for an hour, harms
 * nothing else. picture.ts starts it. It is JavaScript, so that it starts at once where TypeScript is compiled at run time.
 *
 * argv: options, as JSON. stdin: the picture. stdout: the result. Exit status 0, TOO_LARGE, NO_PICTURE or TOO_MANY_SCANS; stderr says
 * why.
 */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { decodeToSrgb, readColours } from './colours.mjs';
import { withKnownBrand } from './heif.mjs';

// CommonJS starts in half the time. A sandbox has no link to the packages, so their real path is given.
const sharp = createRequire(import.meta.url)(process.env.SHARP ?? 'sharp');

const TOO_LARGE = 2;
const NO_PICTURE = 3;
const TOO_MANY_SCANS = 4;

// libvips detects the type by content. Only formats of photographs are allowed: SVG, PDF and others can refer to files.
sharp.block({ operation: ['VipsForeignLoad'] });
sharp.unblock({
  operation: [
    'VipsForeignLoadJpeg',
    'VipsForeignLoadPng',
    'VipsForeignLoadWebp',
    'VipsForeignLoadHeif',
    'VipsForeignLoadNsgif',
    'VipsForeignLoadTiff',
  ],
});

/**
 * The number of scans in a JPEG, found as libjpeg finds them: markers, each with its length, and after a scan's header its data, in which
 * FF is followed by 0. Any other file has none.
 * @param {Uint8Array} bytes
 */
export function countScans(bytes) {
  let scans = 0;
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return scans;
  for (let at = bytes.indexOf(0xff, 2); at >= 0; at = bytes.indexOf(0xff, at)) {
    while (bytes[at] === 0xff) at++;
    const marker = bytes[at++];
    if (marker === 0xd9) break;
    if (marker === 0xda) scans++;
    const hasLength = marker >= 0xc0 && !(marker >= 0xd0 && marker <= 0xd8);
    if (hasLength) at += Math.max(2, bytes[at] * 256 + bytes[at + 1]);
  }
  return scans;
}

/**
 * @param {Uint8Array} bytes
 * @param {{png: boolean, maxPixels: number, maxSide: number, maxScans: number}} options png: return the picture as a PNG; else only check it, and return
 * its upright size, {width, height} in pixels, as JSON
 * @returns {Promise<Buffer>}
 */
export async function decode(bytes, { png, maxPixels, maxSide, maxScans }) {
  const scans = countScans(bytes);
  if (scans > maxScans) throw new Error(`too many scans: ${scans}`);
  const file = withKnownBrand(bytes);
  const open = (options) =>
    sharp(file, { limitInputPixels: maxPixels, failOn: 'error', sequentialRead: true, ...options });
  const metadata = await open().metadata();
  const { width, height, space, channels } = metadata;
  if (Math.max(width, height) > maxSide) throw new Error(`a side exceeds the pixel limit: ${width}×${height}`);
  const colours = readColours(file, metadata);
  if (!png) {
    await open().resize(16, 16, { fit: 'fill' }).raw().toBuffer();
    return Buffer.from(JSON.stringify(metadata.autoOrient));
  }
  let picture = open().autoOrient();
  if (colours) {
    const { data, info } = await decodeToSrgb(open({ ignoreIcc: true }), metadata, colours);
    picture = sharp(data, { raw: info });
  } else if (space === 'rgb16' || space === 'grey16') {
    // sharp converts 16-bit colours to Display P3 instead of sRGB, and does not convert 16-bit grey: so first to 8 bits.
    picture.pipelineColourspace(channels < 3 ? 'b-w' : 'srgb');
  }
  const opaque = picture.flatten({ background: '#fff' }).toColourspace('srgb').removeAlpha();
  return opaque.png({ compressionLevel: 2 }).toBuffer();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const chunks = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  try {
    process.stdout.write(await decode(Buffer.concat(chunks), JSON.parse(process.argv[2])));
  } catch (error) {
    process.stderr.write(`${error.message}\n`);
    process.exitCode = /pixel limit/.test(error.message)
      ? TOO_LARGE
      : /^too many scans/.test(error.message)
        ? TOO_MANY_SCANS
        : NO_PICTURE;
  }
}
