import sharp from 'sharp';
import type { Still } from '../models/model.ts';

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
  const resized = (how: 'cover' | 'fill' | 'inside') =>
    original.clone().resize(width, height, { fit: how, kernel: 'lanczos3' });

  let picture = resized(fit === 'stretch' ? 'fill' : 'cover');
  if (fit === 'contain') {
    const whole = await resized('inside').png({ compressionLevel: 0 }).toBuffer();
    picture = sharp(
      await picture
        .blur(width / 32)
        .raw()
        .toBuffer(),
      { raw: { width, height, channels: 3 } },
    ).composite([{ input: whole, gravity: 'centre' }]);
  }
  const data = await picture.toColourspace('srgb').removeAlpha().raw().toBuffer();
  return { data, width, height };
}
