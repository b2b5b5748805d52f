/**
 * `npm run bench -- media`: what a worker does with pictures beside the programs that do only that: an MP4 beside the ffmpeg command, a
 * still fitted and the camera's frames beside sharp.
 */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';
import { camera } from '../handler/models/camera.ts';
import type { Still } from '../handler/models/model.ts';
import { generator } from '../handler/sampling/torch-random.ts';
import { fitStill } from '../handler/still/fit.ts';
import { THREADS, TO_YUV, writeMp4, X264 } from '../handler/video/mp4.ts';
import { hasProgram } from '../infra/run/programs.ts';
import { readFlags } from './flags.ts';
import { byTurns, python, row, say, tell, timed } from './report.ts';

const flags = readFlags({
  H: { type: 'string', default: '576' },
  W: { type: 'string', default: '1024' },
  T: { type: 'string', default: '25' },
  rounds: { type: 'string', default: '15' },
});
const [H, W, T, rounds] = [flags.H, flags.W, flags.T, flags.rounds].map(Number) as [number, number, number, number];
const FPS = 6;

const folder = await mkdtemp(join(tmpdir(), 'bench-media-'));
const png = await sharp(await readFile(fileURLToPath(new URL('../assets/coffee.png', import.meta.url))))
  .resize(2048, 1365) // of the size that Midjourney gives
  .png()
  .toBuffer();
const still = await fitStill(png, { W, H, fit: 'cover' }, camera.stillScale);
const frames = await clip();
try {
  tell(`Pictures: ${T} frames of ${W}×${H} from a still of 2048×1365; ${rounds} rounds.`, [
    row('frames → MP4', 'ms', await mp4(), { peer: 'ffmpeg', aim: { of: 'ratio', most: 1.05 } }),
    row('still fitted', 'ms', await fitted(), { peer: 'sharp', aim: { of: 'ratio', most: 1.5 } }),
    row('the camera’s frames', 'ms', await decode(), { peer: 'sharp', aim: { of: 'ratio', most: 1.5 } }),
  ]);
} finally {
  await rm(folder, { recursive: true });
}
process.exit(0);

async function opened() {
  const { signal } = new AbortController();
  const { randn } = generator(1);
  const numbers = { fps: FPS, motion_bucket_id: 127, cond_aug: 0.02, decoding_t: T, steps: 10 };
  const clip = await camera.open({ ...numbers, still, H, W, T, randn, signal });
  // A move from far to near and to one side, which is what latents say.
  const [, , h, w] = clip.shape;
  const latents = new Float32Array(clip.shape.reduce((product, size) => product * size, 1));
  const size = Math.sqrt(h * w * T) / 3; // about what sampling ends at
  for (let t = 0; t < T; t++)
    for (let c = 0; c < 3; c++)
      latents.fill((2 * (t / (T - 1) - 0.5)) / size, (t * 4 + c) * h * w, (t * 4 + c + 1) * h * w);
  return { clip, latents };
}

async function clip(): Promise<Uint8Array[]> {
  const { clip, latents } = await opened();
  const frames: Uint8Array[] = [];
  for await (const frame of clip.decode(latents)) frames.push(frame);
  return frames;
}

async function mp4() {
  const raw = join(folder, 'frames.rgb');
  await writeFile(raw, Buffer.concat(frames));
  async function* given() {
    yield* frames;
  }
  const [mine, theirs] = [join(folder, 'ours.mp4'), join(folder, 'theirs.mp4')];
  const program = hasProgram('ffmpeg') ? 'ffmpeg' : await installed();
  const x264 = Object.entries({ ...X264, threads: THREADS }).flatMap(([name, value]) => [
    `-${name}`,
    String(typeof value === 'boolean' ? Number(value) : value),
  ]);
  const input = ['-f', 'rawvideo', '-pix_fmt', 'rgb24', '-s', `${W}x${H}`, '-r', String(FPS), '-i', raw];
  const output = ['-vf', TO_YUV, '-c:v', 'libx264', ...x264, '-movflags', '+faststart', theirs];
  const pairs = await byTurns(
    rounds,
    () => timed(() => writeMp4(mine, given(), { width: W, height: H, fps: FPS, metadata: {} })),
    program === undefined
      ? undefined
      : () => timed(() => run(program, ['-y', '-loglevel', 'error', ...input, ...output])),
  );
  if (program !== undefined) {
    const [own, other] = await Promise.all([mine, theirs].map((path) => stat(path)));
    say(`bytes of the MP4: ours ${own!.size}, ffmpeg’s ${other!.size}`);
  }
  return pairs;
}

/** ffmpeg as a Python package brings it, where the machine has none. */
async function installed(): Promise<string | undefined> {
  const found = await python('imageio-ffmpeg==0.6.0');
  return (
    found &&
    execFileSync(found, ['-c', 'import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())'], {
      encoding: 'utf8',
    }).trim()
  );
}

async function run(program: string, args: string[]) {
  const [code] = await once(spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] }), 'exit');
  if (code !== 0) throw new Error(`${program} ended with ${code}`);
}

function fitted() {
  const width = Math.min(2048, W * camera.stillScale);
  const height = Math.round((width * H) / W);
  return byTurns(
    rounds,
    () => timed(() => fitStill(png, { W, H, fit: 'cover' }, camera.stillScale)),
    () => timed(() => sharp(png).resize(width, height, { kernel: 'lanczos3' }).removeAlpha().raw().toBuffer()),
  );
}

async function decode() {
  const { clip, latents } = await opened();
  return byTurns(
    rounds,
    () =>
      timed(async () => {
        for await (const _ of clip.decode(latents));
      }),
    () =>
      timed(async () => {
        for (let t = 0; t < T; t++) await cropped(still, 0.91 - (0.26 * t) / (T - 1)); // as the camera's
      }),
  );
}

/** A part around the middle, brought to W×H with the same kernel, which sharp calls cubic. */
function cropped({ data, width, height }: Still, size: number) {
  const part = { width: Math.round(width * size), height: Math.round(height * size) };
  const [left, top] = [(width - part.width) >> 1, (height - part.height) >> 1];
  return sharp(data, { raw: { width, height, channels: 3 } })
    .extract({ left, top, ...part })
    .resize(W, H, { fit: 'fill', kernel: 'cubic' })
    .raw()
    .toBuffer();
}
