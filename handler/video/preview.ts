/** The pictures of a video: its first frame, and a small animation. */
import sharp from 'sharp';
import type { Size } from '../../core/frame-size.ts';

/** Of a preview: pixels of its longer side, frames, and bytes. */
const [MAX_SIDE, MAX_FRAMES, MAX_BYTES] = [480, 16, 400_000];
/** WebP's quality; the lower one only where the file would be too large. */
const [QUALITY, LOW_QUALITY] = [60, 30];

/** Pictures of a video, which threads encode while its MP4 is written. */
export interface Pictures {
  /** JPEG of the first frame */
  poster?: Promise<Buffer>;
  /** animated WebP of at most 16 frames, 480 pixels a side and 400 kB. It takes the time of the video, and repeats */
  preview?: Promise<Buffer>;
}

interface PixelSize {
  width: number;
  height: number;
}

const scaled = ({ width, height }: PixelSize, scale: number): PixelSize => ({
  width: Math.max(1, Math.round(width * scale)),
  height: Math.max(1, Math.round(height * scale)),
});

/**
 * Passes frames on, and adds their pictures to `pictures`.
 * @param frames `T` frames of rgb24
 */
export async function* withPictures(
  frames: AsyncIterable<Uint8Array>,
  { W, H, T, fps }: Size & { T: number; fps: number },
  pictures: Pictures,
): AsyncIterable<Uint8Array> {
  const size = scaled({ width: W, height: H }, Math.min(1, MAX_SIDE / Math.max(W, H)));
  const count = Math.min(T, MAX_FRAMES);
  const samples: Promise<Buffer>[] = []; // at equal intervals
  let t = 0;
  for await (const frame of frames) {
    if (t++ >= Math.floor((samples.length * T) / count)) {
      const picture = sharp(Buffer.from(frame), { raw: { width: W, height: H, channels: 3 } }); // a copy: the model may reuse its memory
      pictures.poster ??= guarded(picture.clone().jpeg({ quality: 85 }).toBuffer());
      samples.push(
        guarded(
          picture
            .resize({ ...size, fit: 'fill' })
            .raw()
            .toBuffer(),
        ),
      );
    }
    if (samples.length === count) pictures.preview ??= guarded(encodePreview(samples, size, T / fps));
    yield frame;
  }
}

/** The video may fail before the promise is awaited. */
function guarded<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}

/** Where a clip needs more than 400 kB, the quality is lower, then the size. A single frame gives a WebP without animation. */
async function encodePreview(samples: Promise<Buffer>[], full: PixelSize, seconds: number): Promise<Buffer> {
  const pictures = await Promise.all(samples);
  const delay = pictures.map(() => Math.max(20, Math.round((seconds * 1000) / pictures.length)));
  for (let scale = 1, quality = QUALITY; ; ) {
    const { width, height } = scaled(full, scale);
    const smaller = pictures.map((data) =>
      scale === 1
        ? data
        : sharp(data, { raw: { ...full, channels: 3 } })
            .resize(width, height, { fit: 'fill' })
            .raw()
            .toBuffer(),
    );
    const raw = { width, height: height * pictures.length, pageHeight: height, channels: 3 as const };
    const webp = await sharp(Buffer.concat(await Promise.all(smaller)), { raw })
      .webp({ quality, effort: 0, minSize: true, loop: 0, delay })
      .toBuffer();
    if (webp.length <= MAX_BYTES) return webp;
    if (quality === LOW_QUALITY) scale *= 0.9 * Math.sqrt(MAX_BYTES / webp.length);
    quality = LOW_QUALITY;
  }
}
