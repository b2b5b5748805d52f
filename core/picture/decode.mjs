/**
 * Decodes one stranger's picture in a process of its own: a picture that crashes libvips, or keeps it busy for an hour, takes nobody
 * along. picture.ts starts it. It is JavaScript so that it starts at once wherever the rest is compiled on the fly.
 *
 * argv: what to do, as JSON. stdin: the picture. stdout: what came of it. Exit status 0, TOO_LARGE or NO_PICTURE; stderr says why.
 */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const sharp = createRequire(import.meta.url)('sharp'); // its CommonJS form starts in half the time

const TOO_LARGE = 2;
const NO_PICTURE = 3;

// libvips tells the type by content. Only formats of photographs are let in: no SVG, PDF or the like that can refer to other files.
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
 * @param {Uint8Array} bytes
 * @param {{png: boolean, maxPixels: number, maxSide: number}} options png: the picture itself is wanted, as a PNG; otherwise it is
 * only looked through, and what comes of it is of no use
 * @returns {Promise<Buffer>}
 */
export async function decode(bytes, { png, maxPixels, maxSide }) {
  const open = () => sharp(bytes, { limitInputPixels: maxPixels, failOn: 'error', sequentialRead: true });
  const { width, height, space, channels } = await open().metadata();
  if (Math.max(width, height) > maxSide) throw new Error(`a side exceeds the pixel limit: ${width}×${height}`);
  const picture = open();
  // sharp brings 16-bit colours to Display P3 instead of sRGB, and leaves 16-bit grey as it is: so to 8 bits before the profile.
  if (space === 'rgb16' || space === 'grey16') picture.pipelineColourspace(channels < 3 ? 'b-w' : 'srgb');
  if (!png) return picture.resize(16, 16, { fit: 'fill' }).raw().toBuffer();
  const upright = picture.autoOrient().flatten({ background: '#fff' }).toColourspace('srgb').removeAlpha();
  return upright.png({ compressionLevel: 2 }).toBuffer();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const chunks = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  try {
    process.stdout.write(await decode(Buffer.concat(chunks), JSON.parse(process.argv[2])));
  } catch (error) {
    process.stderr.write(`${error.message}\n`);
    process.exitCode = /pixel limit/.test(error.message) ? TOO_LARGE : NO_PICTURE;
  }
}
