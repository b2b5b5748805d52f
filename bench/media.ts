/**
 * `npm run bench -- media`: what a worker does with pictures against the programs that do only that. An MP4 against the ffmpeg command;
 * a fitted still, and the camera's frames, against sharp.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import sharp from 'sharp';
import { camera } from '../handler/models/camera.ts';
import type { Still } from '../handler/models/model.ts';
import { generator } from '../handler/sampling/torch-random.ts';
import { fitStill } from '../handler/still/fit.ts';
import { THREADS, TO_YUV, writeMp4, X264 } from '../handler/video/mp4.ts';
import { comparePairs, numberFlags, timed } from './measure.ts';
import { ffmpeg, pathOf } from './peers.ts';
import { type Pair, type Report, row } from './report.ts';

const { H, W, T, rounds } = numberFlags({ H: 576, W: 1024, T: 25, rounds: 15 });
const FPS = 6;
const MIDJOURNEY_SIZE = { width: 2048, height: 1365 };

export async function run(): Promise<Report> {
  const png = await sharp(await readFile(pathOf('../assets/coffee.png')))
    .resize(MIDJOURNEY_SIZE)
    .png()
    .toBuffer();
  const still = await fitStill(png, { W, H, fit: 'cover' });
  const frames: Uint8Array[] = [];
  for await (const frame of await moveOver(still)) frames.push(frame);
  return {
    how: `Pictures: ${T} frames of ${W}×${H} from a still of 2048×1365; ${rounds} rounds.`,
    rows: [
      row('frames → MP4', 'ms', await compareMp4(frames), { peer: 'ffmpeg', aim: { of: 'ratio', most: 1.05 } }),
      row('still fitted', 'ms', await compareFit(png), { peer: 'sharp', aim: { of: 'ratio', most: 1.5 } }),
      row('the camera’s frames', 'ms', await compareFrames(still), { peer: 'sharp', aim: { of: 'ratio', most: 1.5 } }),
    ],
  };
}

/** The camera's frames of a move towards the picture. */
async function moveOver(still: Still): Promise<AsyncIterable<Uint8Array>> {
  const { signal } = new AbortController();
  const { randn } = generator(1);
  const numbers = { fps: FPS, motion_bucket_id: 127, cond_aug: 0.02, decoding_t: T, steps: 10 };
  const clip = await camera.open({ ...numbers, still, H, W, T, randn, signal });
  const latents = new Float32Array(clip.shape.reduce((product, size) => product * size, 1));
  for (let t = 0; t < T; t++) latents[4 * t] = (t / (T - 1)) * (6 / Math.sqrt(T)); // about what sampling ends at
  return clip.decode(latents);
}

/** Our MP4 writer against the ffmpeg command, with the same settings of x264. */
async function compareMp4(frames: Uint8Array[]): Promise<Pair[]> {
  const folder = await mkdtemp(join(tmpdir(), 'bench-media-'));
  try {
    const raw = join(folder, 'frames.rgb');
    await writeFile(raw, Buffer.concat(frames));
    const x264 = Object.entries({ ...X264, threads: THREADS }).flatMap(([name, value]) => [
      `-${name}`,
      String(typeof value === 'boolean' ? Number(value) : value),
    ]);
    const input = ['-f', 'rawvideo', '-pix_fmt', 'rgb24', '-s', `${W}x${H}`, '-r', String(FPS), '-i', raw];
    const output = ['-vf', TO_YUV, '-c:v', 'libx264', ...x264, '-movflags', '+faststart', join(folder, 'theirs.mp4')];
    const args = ['-y', '-loglevel', 'error', ...input, ...output];
    const program = await ffmpeg();
    async function* given() {
      yield* frames;
    }
    const options = { width: W, height: H, fps: FPS, metadata: {} };
    return await comparePairs(
      rounds,
      () => timed(() => writeMp4(join(folder, 'ours.mp4'), given(), options)),
      program === undefined ? undefined : () => timed(() => promisify(execFile)(program, args)),
    );
  } finally {
    await rm(folder, { recursive: true });
  }
}

function compareFit(png: Buffer): Promise<Pair[]> {
  return comparePairs(
    rounds,
    () => timed(() => fitStill(png, { W, H, fit: 'cover' })),
    () => timed(() => sharp(png).resize(W, H, { kernel: 'lanczos3' }).removeAlpha().raw().toBuffer()),
  );
}

/** The camera's frames against the same zoom by sharp, which knows no depth. */
async function compareFrames(still: Still): Promise<Pair[]> {
  return comparePairs(
    rounds,
    async () => {
      const frames = await moveOver(still);
      return timed(async () => {
        for await (const _ of frames);
      });
    },
    () =>
      timed(async () => {
        for (let t = 0; t < T; t++) await crop(still, 1 - (0.1 * t) / (T - 1)); // the camera's sizes
      }),
  );
}

/** The middle of a still, of this share of its sides, brought to W×H by the camera's kernel, which sharp calls cubic. */
function crop({ data, width, height }: Still, size: number): Promise<Buffer> {
  const part = { width: Math.round(width * size), height: Math.round(height * size) };
  const [left, top] = [(width - part.width) >> 1, (height - part.height) >> 1];
  return sharp(data, { raw: { width, height, channels: 3 } })
    .extract({ left, top, ...part })
    .resize(W, H, { fit: 'fill', kernel: 'cubic' })
    .raw()
    .toBuffer();
}
