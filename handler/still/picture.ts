/** Pictures from strangers: what is one, and how large it may be. The one place that decodes them. */
import sharp from 'sharp';
import { JobError } from '../job.ts';

export const MAX_PICTURE_BYTES = 20_000_000;
export const MAX_PICTURE_PIXELS = 64_000_000;

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

const open = (bytes: Uint8Array) =>
  sharp(bytes, { limitInputPixels: MAX_PICTURE_PIXELS, failOn: 'error', sequentialRead: true });

/**
 * Decodes the whole picture once, at low resolution, so that a broken one is found before anything is done with it.
 * @throws JobError image_rejected: no picture of a known type, truncated, or too large
 */
export async function checkPicture(bytes: Uint8Array): Promise<void> {
  if (bytes.length > MAX_PICTURE_BYTES) throw tooLarge();
  await decoding(() => open(bytes).resize(16, 16, { fit: 'fill' }).raw().toBuffer());
}

/**
 * The picture as a PNG at its full size: upright (EXIF), sRGB, alpha over white, nothing but pixels.
 * @throws JobError image_rejected
 */
export async function toPng(bytes: Uint8Array): Promise<Buffer> {
  if (bytes.length > MAX_PICTURE_BYTES) throw tooLarge();
  return decoding(() => {
    const upright = open(bytes).autoOrient().flatten({ background: '#fff' }).toColourspace('srgb').removeAlpha();
    return upright.png({ compressionLevel: 2 }).toBuffer();
  });
}

export const tooLarge = () =>
  new JobError(
    'image_rejected',
    `the picture is larger than ${MAX_PICTURE_BYTES / 1e6} MB or ${MAX_PICTURE_PIXELS / 1e6} megapixels`,
  );

async function decoding(work: () => Promise<Buffer>): Promise<Buffer> {
  try {
    return await work();
  } catch (cause) {
    if (/pixel limit/.test(String(cause))) throw tooLarge();
    throw new JobError('image_rejected', 'not a whole picture of type jpeg, png, webp, avif, gif or tiff', { cause });
  }
}
