import sharp from 'sharp';

const QUALITY = 85; // of the JPEG

/**
 * Puts the frames of an animation into one picture, in rows from the top left: as many columns as rows, or one more.
 * @param animation animated WebP of one of our workers, at most 16 frames and 480 pixels a side
 * @returns JPEG
 */
export async function makeSpriteSheet(animation: Uint8Array): Promise<Buffer> {
  const { data, info } = await sharp(animation, { animated: true })
    .removeAlpha()
    .raw()
    .toBuffer({ resolveWithObject: true });
  const { width, channels, pageHeight: height = info.height, pages = 1 } = info;
  const raw = { width, height, channels };
  const columns = Math.ceil(Math.sqrt(pages));
  const frames = Array.from({ length: pages }, (_, i) => ({
    input: data.subarray(i * width * height * channels, (i + 1) * width * height * channels),
    raw,
    left: (i % columns) * width,
    top: Math.floor(i / columns) * height,
  }));
  const size = { width: columns * width, height: Math.ceil(pages / columns) * height };
  return sharp({ create: { ...size, channels: 3, background: 'black' } })
    .composite(frames)
    .jpeg({ quality: QUALITY })
    .toBuffer();
}
