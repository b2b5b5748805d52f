/**
 * `npm run bench -- memory`: how long a model takes to be ready, and the most memory that one guided step and one decoded chunk take,
 * ours beside diffusers with the same folder; and how soon a UNet of svd_xt's size is ready. Each in a process of its own, whose
 * memory is read from /proc (Linux).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import * as v from 'valibot';
import { openSvd, openWeights } from '../handler/models/svd.ts';
import { openSession } from '../handler/onnx/session.ts';
import { unet, unetConfig } from '../handler/onnx/unet.ts';
import { generator } from '../handler/sampling/torch-random.ts';
import { diffusersPython } from './diffusers.ts';
import { readFlags } from './flags.ts';
import { fullSize } from './full-size.ts';
import { type Aim, type Row, row, say, tell } from './report.ts';

const flags = readFlags({
  /** a folder as for MODEL_DIR; default: the tests' small networks */
  model: {
    type: 'string',
    default: fileURLToPath(new URL('../handler/models/testdata/small-svd', import.meta.url)),
  },
  H: { type: 'string', default: '576' },
  W: { type: 'string', default: '1024' },
  T: { type: 'string', default: '25' },
  /** frames decoded at a time, a chunk of each */
  decoding_t: { type: 'string', default: '1,7,14' },
  /** how much memory ours believes to have, GiB; a run for each. With little it maps the weights. */
  memory: { type: 'string', default: '100' },
  threads: { type: 'string', default: '2' },
  /** a Python with torch and diffusers; default: installed */
  python: { type: 'string' },
  /** in a child: what it does, the memory it believes to have in GiB, or `ready` */
  run: { type: 'string' },
});
const [H, W, T, threads] = [flags.H, flags.W, flags.T, flags.threads].map(Number) as [number, number, number, number];
const chunks = flags.decoding_t.split(',').map(Number);

if (flags.run === 'ready') await ready();
else if (flags.run) await clip(Number(flags.run) * 2 ** 30);
else await compare();
process.exit(0);

async function compare() {
  const script = fileURLToPath(new URL('memory_peer.py', import.meta.url));
  const program = await diffusersPython(flags.python);
  const peer = program
    ? await follow(spawn(program, [script, flags.model, ...[H, W, T, threads, ...chunks].map(String)]))
    : [];
  const most: Aim = { of: 'ratio', most: 0.7 };
  const rows: Row[] = [];
  const against = (what: string, part: Part | undefined, of: number, aim?: Aim) => {
    if (!part) throw new Error(`${what}: the process ended early`);
    const theirs = peer[of]?.peak;
    const pair = { ours: part.peak, ...(theirs !== undefined && { theirs }) };
    rows.push(row(what, 'GiB', [pair], { peer: 'diffusers', ...(aim && { aim }) }));
  };
  for (const memory of flags.memory.split(',')) {
    const given = flags.memory.includes(',') ? `, given ${memory} GiB` : '';
    for (const [i, count] of chunks.entries()) {
      // Each as a job would: with the networks of its own size kept, and none of others.
      const [ready, step, decoded] = await follow(own('--run', memory, '--decoding_t', String(count)));
      if (i === 0) against(`memory until ready${given}`, ready, 0);
      if (i === 0) against(`memory, a guided step${given}`, step, 1, most);
      against(`memory, ${count} frames decoded${given}`, decoded, 2 + i, most);
    }
  }

  const made = fullSize();
  const [part] = await follow(own('--run', 'ready', '--model', made.folder)).finally(made.remove);
  if (!part) throw new Error('a UNet of svd_xt’s size could not be opened');
  rows.push(
    row('UNet of svd_xt’s size ready, mapped', 's', [{ ours: part.seconds }], { aim: { of: 'ours', most: 1 } }),
    row('its memory then', 'GiB', [{ ours: part.peak }], { aim: { of: 'ours', most: 0.3 } }),
  );
  tell(
    `Memory of its own at most: ${W}×${H}, ${T} frames, ${threads} threads, ${flags.model.split('/').at(-1)}; a guided step is both branches.`,
    rows,
  );
}

/** This benchmark in a child, with other flags behind its own. */
function own(...more: string[]) {
  const index = fileURLToPath(new URL('index.ts', import.meta.url));
  return spawn(process.execPath, ['--import', 'tsx', index, ...process.argv.slice(2), ...more]);
}

interface Part {
  /** GiB */
  peak: number;
  seconds: number;
}

/** What each part took of a process that says `begin`, and `done` after each part. */
async function follow(child: ChildProcess): Promise<Part[]> {
  const anonymous = () => {
    const status = readFileSync(`/proc/${child.pid}/status`, 'utf8');
    return Number(/RssAnon:\s+(\d+) kB/.exec(status)?.[1] ?? 0) / 2 ** 20;
  };
  let peak = 0;
  const timer = setInterval(() => {
    try {
      peak = Math.max(peak, anonymous());
    } catch {} // it has ended
  }, 20);
  let complaint = '';
  child.stderr!.on('data', (text) => {
    complaint = (complaint + text).slice(-1000);
  });
  const gone = once(child, 'close').then(
    ([code]) => code === 0,
    (error) => {
      complaint = error.message; // it could not be started
      return false;
    },
  );
  const parts: Part[] = [];
  let since = performance.now();
  for await (const line of createInterface({ input: child.stdout! })) {
    if (line === 'done') parts.push({ peak, seconds: (performance.now() - since) / 1000 });
    else if (line !== 'begin') continue;
    since = performance.now();
    peak = anonymous();
  }
  clearInterval(timer);
  if (!(await gone)) say(`a process ended early: ${complaint.trim().split('\n').at(-1) || 'killed'}`);
  return parts;
}

/** In a child: loads, samples one step, decodes one chunk. */
async function clip(memory: number) {
  console.log('begin');
  const model = openSvd(flags.model, { threads, memory });
  await model.preload({ H, W, T, decoding_t: chunks[0]!, steps: 25 });
  console.log('done');
  const { randn } = generator(1);
  const still = { data: new Uint8Array(3 * H * W).fill(120), width: W, height: H };
  const numbers = { fps: 6, motion_bucket_id: 127, cond_aug: 0.02, steps: 25 };
  const { signal } = new AbortController();
  const clip = await model.open({ ...numbers, H, W, T, decoding_t: chunks[0]!, still, randn, signal });
  const latents = randn(clip.shape.reduce((product, size) => product * size, 1));
  await clip.denoise(latents, 1, true);
  await clip.denoise(latents, 1, false);
  console.log('done');
  let frames = 0;
  for await (const _ of clip.decode(latents)) if (++frames === Math.min(chunks[0]!, T)) break;
  console.log('done');
}

/** In a child: opens a UNet whose weights stay in their file. */
async function ready() {
  const config = v.parse(unetConfig, JSON.parse(readFileSync(join(flags.model, 'unet/config.json'), 'utf8')));
  console.log('begin');
  const weights = openWeights(join(flags.model, 'unet'), 'diffusion_pytorch_model');
  await openSession(unet(weights, config, { B: 1, T: 14, h: 36, w: 64 }, { policy: 'mapped' }), { threads });
  console.log('done');
}
