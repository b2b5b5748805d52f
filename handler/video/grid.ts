import sharp from 'sharp';
import { readMp4 } from './mp4.ts';

/** Pixels: 4K, which most players and decoders support. */
const MAX_WIDTH = 3840;

/**
 * The size of the videos side by side, scaled to a width of at most 3840. Sizes are even, as yuv420p requires.
 * @param columns number of videos, each W×H
 */
export function gridSize(columns: number, W: number, H: number) {
  const scale = Math.min(1, MAX_WIDTH / (columns * W));
  const even = (x: number) => Math.max(2, 2 * Math.floor((x * scale) / 2));
  const cell = { width: even(W), height: even(H) };
  return { width: columns * cell.width, height: cell.height, cell };
}

/**
 * The frames of several videos of one size and length, side by side, as rgb24. They are read from the files frame by frame, which
 * needs little memory.
 */
export async function* gridFrames(paths: string[], W: number, H: number): AsyncGenerator<Uint8Array> {
  const { width, height, cell } = gridSize(paths.length, W, H);
  const videos = paths.map((path) => readMp4(path));
  try {
    for (;;) {
      const frames = await Promise.all(videos.map((video) => video.next()));
      if (frames.some(({ done }) => done)) return;
      const line = width * 3;
      const out = new Uint8Array(line * height);
      for (const [column, frame] of frames.entries()) {
        const pixels = await scaled(frame.value!.data, W, H, cell);
        for (let y = 0; y < cell.height; y++) {
          const from = y * cell.width * 3;
          out.set(pixels.subarray(from, from + cell.width * 3), y * line + column * cell.width * 3);
        }
      }
      yield out;
    }
  } finally {
    await Promise.all(videos.map((video) => video.return(undefined)));
  }
}

async function scaled(data: Uint8Array, W: number, H: number, cell: ReturnType<typeof gridSize>['cell']) {
  if (cell.width === W && cell.height === H) return data;
  return sharp(data, { raw: { width: W, height: H, channels: 3 } })
    .resize(cell.width, cell.height, { fit: 'fill' })
    .raw()
    .toBuffer();
}
