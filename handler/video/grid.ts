import sharp from 'sharp';
import { readMp4 } from './mp4.ts';

/** Pixels: 4K, which most players and decoders support. */
const [MAX_SIDE, MAX_AREA] = [3840, 3840 * 2160];

/**
 * The grid that fits the smallest square, with the fewest empty cells: it is near a square itself. It is scaled to at most 3840 pixels a
 * side and the area of 4K. Sizes are even, as yuv420p requires.
 * @param count number of videos, each W×H
 */
export function gridSize(count: number, W: number, H: number) {
  let columns = count;
  const rowsOf = (columns: number) => Math.ceil(count / columns);
  const cost = (columns: number) => Math.max(columns * W, rowsOf(columns) * H) + (columns * rowsOf(columns)) / 1000; // the side decides first
  for (let next = count - 1; next > 0; next--) if (cost(next) < cost(columns)) columns = next;
  const rows = rowsOf(columns);
  const [w, h] = [columns * W, rows * H];
  const scale = Math.min(1, MAX_SIDE / w, MAX_SIDE / h, Math.sqrt(MAX_AREA / (w * h)));
  const even = (x: number) => Math.max(2, 2 * Math.floor((x * scale) / 2));
  const cell = { width: even(W), height: even(H) };
  return { width: columns * cell.width, height: rows * cell.height, columns, cell };
}

/**
 * The frames of several videos of one size and length, row by row, as rgb24; empty cells are black. They are read from the files
 * frame by frame, which needs little memory.
 */
export async function* gridFrames(paths: string[], W: number, H: number): AsyncGenerator<Uint8Array> {
  const { width, height, columns, cell } = gridSize(paths.length, W, H);
  const videos = paths.map((path) => readMp4(path));
  try {
    for (;;) {
      const frames = await Promise.all(videos.map((video) => video.next()));
      if (frames.some(({ done }) => done)) return;
      const line = width * 3;
      const out = new Uint8Array(line * height);
      for (const [i, frame] of frames.entries()) {
        const corner = Math.floor(i / columns) * cell.height * line + (i % columns) * cell.width * 3;
        const pixels = await scaled(frame.value!.data, W, H, cell);
        for (let y = 0; y < cell.height; y++) {
          const from = y * cell.width * 3;
          out.set(pixels.subarray(from, from + cell.width * 3), corner + y * line);
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
