import sharp from 'sharp';
import type { Still } from '../models/model.ts';

/** Pixels of the still: how far lanczos3 looks when it enlarges, and some more. */
const MARGIN = 8;

/**
 * Brings a still to the frame's shape.
 * @param png the unfitted still
 * @param fit cover: filled and cropped around the centre; contain: whole, over a blurred copy of itself; stretch: whole, distorted
 * @param scale how much larger than W×H the result may be, where the still has the pixels; ≥ 1
 */
export async function fitStill(
  png: Uint8Array,
  { W, H, fit }: { W: number; H: number; fit: 'cover' | 'contain' | 'stretch' },
  scale: number,
): Promise<Still> {
  const original = sharp(png);
  const meta = await original.metadata();
  const factor = Math.min(scale, Math.max(1, Math.min(meta.width / W, meta.height / H)));
  const width = Math.round(W * factor);
  const height = Math.round(H * factor);
  const kernel = 'lanczos3';

  /** An enlarged thread (1×65,535 for 2048×2048) has more pixels than libvips counts: of it only what the crop leaves, and a margin. */
  function cover(width: number, height: number) {
    const enlargement = Math.max(width / meta.width, height / meta.height);
    const isThread = enlargement * Math.max(meta.width, meta.height) > 1e6;
    const spare = (length: number, needed: number) =>
      isThread ? Math.max(0, Math.floor((length - needed / enlargement) / 2) - MARGIN) : 0;
    const [left, top] = [spare(meta.width, width), spare(meta.height, height)];
    return original
      .clone()
      .extract({ left, top, width: meta.width - 2 * left, height: meta.height - 2 * top })
      .resize(width, height, { fit: 'cover', kernel });
  }

  let picture =
    fit === 'stretch' ? original.clone().resize(width, height, { fit: 'fill', kernel }) : cover(width, height);
  if (fit === 'contain') {
    // Blurred at an eighth of the size: at 3072×3072 this took five times as long as all else.
    const [w, h] = [Math.ceil(width / 8), Math.ceil(height / 8)];
    const small = await cover(w, h)
      .blur({ sigma: Math.max(1, Math.max(w, h) / 32), precision: 'float' }) // whole numbers would darken it
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
