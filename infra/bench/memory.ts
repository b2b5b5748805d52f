/**
 * `npm run bench -- memory`: how long a model takes to be ready, and the most memory that one guided step and one decoded chunk take,
 * ours under each policy and, where Python has torch and diffusers, diffusers with the same folder. Each in a process of its own,
 * whose memory is read from /proc (Linux).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { openSvd } from '../../handler/models/svd.ts';
import { generator } from '../../handler/svd/random.ts';
import { common } from './flags.ts';

const { values: flags } = parseArgs({
  args: process.argv.slice(3),
  options: {
    ...common,
    H: { type: 'string', default: '576' },
    W: { type: 'string', default: '1024' },
    T: { type: 'string', default: '25' },
    decoding_t: { type: 'string', default: '1,7,14,25' },
    /** how much memory ours believes to have, GiB; a run for each */
    memory: { type: 'string', default: '100,4' },
    /** in a child: how much */
    run: { type: 'string' },
  },
});
const [H, W, T, threads] = [flags.H, flags.W, flags.T, flags.threads].map(Number) as [number, number, number, number];

const chunks = flags.decoding_t.split(',').map(Number);

if (flags.run) await measured(Number(flags.run) * 2 ** 30);
else await compare();
process.exit(0);

async function compare() {
  console.log(`${W}×${H}, ${T} frames, ${threads} threads, ${flags.model}`);
  console.log(
    'GiB of memory of its own at most, and in brackets with pages of files; after each the seconds it took\n',
  );
  console.log(`| who | until ready | a guided step |${chunks.map((count) => ` ${count} frames decoded |`).join('')}`);
  console.log(`|---|---|---|${'---|'.repeat(chunks.length)}`);
  const own = ['--import', 'tsx', fileURLToPath(new URL('index.ts', import.meta.url)), ...process.argv.slice(2)];
  for (const memory of flags.memory.split(','))
    await follow(`ours, given ${memory} GiB`, spawn(process.execPath, [...own, '--run', memory]));
  const script = fileURLToPath(new URL('memory_peer.py', import.meta.url));
  await follow('diffusers', spawn(flags.python, [script, flags.model, ...[H, W, T, threads, ...chunks].map(String)]));
}

/** Prints a line for a process that says `done` after each part, and reads its memory all the while. */
async function follow(who: string, child: ChildProcess) {
  let peak = { own: 0, all: 0 };
  const timer = setInterval(() => {
    try {
      const status = readFileSync(`/proc/${child.pid}/status`, 'utf8');
      const gib = (name: string) => Number(new RegExp(`${name}:\\s+(\\d+) kB`).exec(status)?.[1] ?? 0) / 2 ** 20;
      peak = { own: Math.max(peak.own, gib('RssAnon')), all: Math.max(peak.all, gib('VmRSS')) };
    } catch {} // it has ended
  }, 20);
  let complaint = '';
  child.stderr!.on('data', (text) => {
    complaint = (complaint + text).slice(-1000);
  });
  child.once('error', (error) => {
    complaint = error.message; // it could not be started
  });
  const cells: string[] = [];
  let since = performance.now();
  for await (const line of createInterface({ input: child.stdout! })) {
    if (line !== 'done') continue;
    const seconds = ((performance.now() - since) / 1000).toFixed(1);
    cells.push(`${peak.own.toFixed(2)} (${peak.all.toFixed(2)}), ${seconds} s`);
    since = performance.now();
    peak = { own: 0, all: 0 };
  }
  clearInterval(timer);
  if (cells.length < 2 + chunks.length) cells.push(complaint.trim().split('\n').at(-1) || 'ended');
  console.log(`| ${[who, ...cells].join(' | ')} |`);
}

/** In a child: loads, samples one step, decodes one chunk of each length. */
async function measured(memory: number) {
  const model = openSvd(flags.model, { threads, memory });
  await model.preload({ H, W, T, decoding_t: chunks[0]!, steps: 25 });
  console.log('done');
  const { randn } = generator(1);
  const still = { data: new Uint8Array(3 * H * W).fill(120), width: W, height: H };
  const numbers = { fps: 6, motion_bucket_id: 127, cond_aug: 0.02, steps: 25 };
  const { signal } = new AbortController();
  const open = (decoding_t: number) => model.open({ ...numbers, H, W, T, decoding_t, still, randn, signal });
  let clip = await open(chunks[0]!);
  const latents = randn(clip.shape.reduce((product, size) => product * size, 1));
  await clip.denoise(latents, 1, true);
  await clip.denoise(latents, 1, false);
  console.log('done');
  for (const count of chunks) {
    await clip.close();
    clip = await open(count);
    let frames = 0;
    for await (const _ of clip.decode(latents)) if (++frames === Math.min(count, T)) break;
    console.log('done');
  }
}
