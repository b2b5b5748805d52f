import sharp from 'sharp';
import type { Still } from '../models/model.ts';

/** Pixels of the still: the reach of lanczos3 when it enlarges, and a few more. */
const MARGIN = 8;

/**
 * Fits a still to the frame.
 * @param png the unfitted still
 * @param fit cover: crops around the centre; contain: the whole still over a blurred copy of itself; stretch: distorts
 */
export async function fitStill(
  png: Uint8Array,
  { W: width, H: height, fit }: { W: number; H: number; fit: 'cover' | 'contain' | 'stretch' },
): Promise<Still> {
  const original = sharp(png);
  const meta = await original.metadata();
  const kernel = 'lanczos3';

  /** A very thin still (1×65,535 for 2048×2048) exceeds libvips' limits when enlarged, so it is cropped before, with a margin. */
  function cover(width: number, height: number) {
    const enlargement = Math.max(width / meta.width, height / meta.height);
    const isThin = enlargement * Math.max(meta.width, meta.height) > 1e6;
    const spare = (length: number, needed: number) =>
      isThin ? Math.max(0, Math.floor((length - needed / enlargement) / 2) - MARGIN) : 0;
    const [left, top] = [spare(meta.width, width), spare(meta.height, height)];
    return original
      .clone()
      .extract({ left, top, width: meta.width - 2 * left, height: meta.height - 2 * top })
      .resize(width, height, { fit: 'cover', kernel });
  }

  let picture =
    fit === 'stretch' ? original.clone().resize(width, height, { fit: 'fill', kernel }) : cover(width, height);
  if (fit === 'contain') {
    // Blurred at an eighth of the size: at full size it takes five times as long as everything else.
    const [w, h] = [Math.ceil(width / 8), Math.ceil(height / 8)];
    const small = await cover(w, h)
      .blur({ sigma: Math.max(1, Math.max(w, h) / 32), precision: 'float' }) // integer precision would darken it
      .raw()
      .toBuffer();
    const whole = await original
      .clone()
      .resize(width, height, { fit: 'inside', kernel })
      .png({ compressionLevel: 0 })
      .toBuffer();
    const bars = sharp(small, { raw: { width: w, height: h, channels: 3 } }).resize(width, height, { fit: 'fill' });
    picture = sharp(await bars.raw().toBuffer(), { raw: { width, height, channels: 3 } }).composite([
      { input: whole, gravity: 'centre' },
    ]);
  }
  const data = await picture.toColourspace('srgb').removeAlpha().raw().toBuffer();
  return { data, width, height };
}
