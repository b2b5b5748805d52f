/** `npm run gallery`: a contact sheet of the camera's clips, to judge changes of it by eye. */
import { randomUUID } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import sharp from 'sharp';
import { withSize } from '../../core/frame-size.ts';
import type { SizedJob } from '../../core/job.ts';
import { parseRequest } from '../../core/request.ts';
import { camera } from '../../handler/models/camera.ts';
import type { Still } from '../../handler/models/model.ts';
import { generator } from '../../handler/sampling/torch-random.ts';
import { fitStill } from '../../handler/still/fit.ts';
import { sampleLatents } from '../../handler/video/make-video.ts';
import { defineCommand, runIfMain, UsageError, type Values } from './command.ts';
import { PICTURES } from './gallery-pictures.ts';

const TILE = { width: 320, height: 220 }; // pixels
const GAP = 6;
const COLUMNS = [0, 1 / 4, 1 / 2, 3 / 4, 1]; // of a clip

const options = {
  out: { value: 'FILE', help: 'where the sheet is written, as WebP, PNG or JPEG (out/gallery.webp)' },
  kinds: { value: 'LIST', help: `of ${Object.keys(PICTURES).join(', ')} (all)` },
  seeds: { value: 'LIST', help: 'whole numbers (1,2,3)' },
  motion: { value: '0-512', help: 'motion_bucket_id (127)' },
};

export const main = defineCommand(
  'npm run gallery',
  {
    '': {
      help: 'Makes a contact sheet of clips',
      options,
      async run({ out }, { out: path = 'out/gallery.webp', ...values }: Values<typeof options>) {
        const { kinds, seeds, motion } = readValues(values);
        const rows: Buffer[][] = [];
        for (const kind of kinds) {
          const picture = await PICTURES[kind]!();
          const { width, height } = await sharp(picture).metadata();
          const size = withSize({}, width / height, 'camera');
          const still = await fitStill(await sharp(picture).png().toBuffer(), { ...size, fit: 'cover' });
          for (const seed of seeds) {
            const { tiles, psnr } = await makeRow(still, { ...size, seed, motion_bucket_id: motion });
            rows.push(tiles);
            const closeness = psnr === Infinity ? 'is the still' : `has ${psnr.toFixed(1)} dB against the still`;
            out.write(`${kind}, seed ${seed}: ${size.W}×${size.H}, the first frame ${closeness}\n`);
          }
        }
        await mkdir(dirname(path), { recursive: true });
        await writeSheet(rows, path);
        out.write(`${path}: each row is one clip, from its first to its last frame\n`);
        return undefined;
      },
    },
  },
  'The photographs are CC0; the other pictures are drawn.',
);

/** @throws UsageError that names the flag */
function readValues({ kinds = Object.keys(PICTURES).join(), seeds = '1,2,3', motion = '127' }: Values<typeof options>) {
  const list = (text: string) => text.split(',').map((item) => item.trim());
  for (const kind of list(kinds))
    if (!PICTURES[kind]) throw new UsageError(`--kinds: must be of ${Object.keys(PICTURES).join(', ')}, not ${kind}`);
  for (const seed of list(seeds))
    if (!/^\d{1,9}$/.test(seed)) throw new UsageError(`--seeds: must be whole numbers up to 999999999, not ${seed}`);
  if (!/^\d{1,3}$/.test(motion) || Number(motion) > 512)
    throw new UsageError(`--motion: must be a whole number from 0 to 512, not ${motion}`);
  return { kinds: list(kinds), seeds: list(seeds).map(Number), motion: Number(motion) };
}

/** Some frames of one clip, as PNG, and how close the first is to the still, in dB. */
async function makeRow(still: Still, values: Record<'W' | 'H' | 'seed' | 'motion_bucket_id', number>) {
  const context = { limits: { maxFrames: 100, maxFps: 120 }, model: 'camera', hasImage: true, seed: 0 } as const;
  const { input } = parseRequest(values, context);
  const job: SizedJob = { ...withSize(input, 1, 'camera'), task_id: randomUUID(), model: 'camera' }; // it has both sides
  const { randn } = generator(job.seed);
  const { signal } = new AbortController();
  const clip = await camera.open({ ...job, still, randn, signal });
  const latents = await sampleLatents(clip, job, { randn, signal });
  const wanted = COLUMNS.map((part) => Math.round(part * (job.T - 1)));
  const raw = { width: job.W, height: job.H, channels: 3 } as const;
  const tiles: Buffer[] = [];
  let psnr = 0;
  let t = 0;
  for await (const frame of clip.decode(latents)) {
    if (t === 0) psnr = psnrOf(frame, still.data);
    if (wanted.includes(t++))
      tiles.push(
        await sharp(frame, { raw })
          .resize({ ...TILE, fit: 'inside' })
          .png()
          .toBuffer(),
      );
  }
  return { tiles, psnr };
}

function psnrOf(a: Uint8Array, b: Uint8Array): number {
  const error = a.reduce((sum, value, i) => sum + (value - b[i]!) ** 2, 0) / a.length;
  return 10 * Math.log10(255 ** 2 / error);
}

async function writeSheet(rows: Buffer[][], path: string) {
  const [across, down] = [TILE.width + GAP, TILE.height + GAP];
  const tiles = rows.flatMap((row, y) => row.map((input, x) => ({ input, left: x * across, top: y * down })));
  const size = { width: COLUMNS.length * across, height: rows.length * down };
  await sharp({ create: { ...size, channels: 3, background: '#fff' } })
    .composite(tiles)
    .toFile(path);
}

await runIfMain(import.meta.url, main);
