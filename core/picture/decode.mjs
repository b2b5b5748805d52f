/**
 * Decodes one untrusted picture in a process of its own, so that a picture that crashes libvips, or keeps it busy for an hour, harms
 * nothing else. picture.ts starts it. It is JavaScript, so that it starts at once where TypeScript is compiled at run time.
 *
 * argv: options, as JSON. stdin: the picture. stdout: the result. Exit status 0, TOO_LARGE or NO_PICTURE; stderr says why.
 */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const sharp = createRequire(import.meta.url)('sharp'); // CommonJS starts in half the time

const TOO_LARGE = 2;
const NO_PICTURE = 3;

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
 * @param {Uint8Array} bytes
 * @param {{png: boolean, maxPixels: number, maxSide: number}} options png: return the picture as a PNG; else only check it, and return
 * no useful bytes
 * @returns {Promise<Buffer>}
 */
export async function decode(bytes, { png, maxPixels, maxSide }) {
  const open = () => sharp(bytes, { limitInputPixels: maxPixels, failOn: 'error', sequentialRead: true });
  const { width, height, space, channels } = await open().metadata();
  if (Math.max(width, height) > maxSide) throw new Error(`a side exceeds the pixel limit: ${width}×${height}`);
  const picture = open();
  // sharp converts 16-bit colours to Display P3 instead of sRGB, and does not convert 16-bit grey: so first to 8 bits.
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
