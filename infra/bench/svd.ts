/**
 * `npm run bench -- svd`: the same weights through our graphs and, where Python has torch and diffusers, through diffusers, by turns.
 * Prints the median ratio for each network and for a whole clip, and how much of the clip is spent outside the networks.
 */
import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import * as v from 'valibot';
import { openSvd, openWeights } from '../../handler/models/svd.ts';
import { clipConfig, clipVision } from '../../handler/onnx/clip.ts';
import type { Graph } from '../../handler/onnx/graph.ts';
import type { SafeTensors } from '../../handler/onnx/safetensors.ts';
import { openSession } from '../../handler/onnx/session.ts';
import { unet, unetConfig } from '../../handler/onnx/unet.ts';
import { vaeConfig, vaeDecoder, vaeEncoder } from '../../handler/onnx/vae.ts';
import { noiseLevels } from '../../handler/svd/discretization.ts';
import { guidanceScales, guided } from '../../handler/svd/guider.ts';
import { generator } from '../../handler/svd/random.ts';
import { eulerEDM } from '../../handler/svd/sampler.ts';
import { common } from './flags.ts';
import { median } from './statistics.ts';

const { values: flags } = parseArgs({
  args: process.argv.slice(3),
  options: {
    ...common,
    H: { type: 'string', default: '256' },
    W: { type: 'string', default: '384' },
    T: { type: 'string', default: '7' },
    steps: { type: 'string', default: '4' },
    rounds: { type: 'string', default: '5' },
    json: { type: 'boolean', default: false },
  },
});
const [H, W, T, steps, threads, rounds] = [flags.H, flags.W, flags.T, flags.steps, flags.threads, flags.rounds].map(
  Number,
) as [number, number, number, number, number, number];
const [h, w] = [H / 8, W / 8];

const ours = await openOurs();
const peer = openPeer();
if (!peer)
  console.error(`${flags.python} has no torch and diffusers: without the peer there are no ratios (set --python)`);

const rows: { what: string; ours_ms: number; diffusers_ms?: number; ratio?: number; outside?: number }[] = [];
for (const [what, run] of Object.entries(ours)) {
  const times: { own: number; outside: number; other?: number }[] = [];
  for (let round = 0; round <= rounds; round++) {
    const start = performance.now();
    const inside = await run();
    const own = performance.now() - start;
    const other = await peer?.(what);
    if (round > 0) times.push({ own, outside: 1 - inside / own, ...(other !== undefined && { other }) }); // the first is a warm-up
  }
  const row = { what, ours_ms: median(times.map(({ own }) => own)) };
  const paired = times.flatMap(({ own, other }) => (other === undefined ? [] : [{ other, ratio: own / other }]));
  rows.push({
    ...row,
    ...(paired.length > 0 && {
      diffusers_ms: median(paired.map(({ other }) => other)),
      ratio: median(paired.map(({ ratio }) => ratio)),
    }),
    ...(what === 'whole' && { outside: median(times.map(({ outside }) => outside)) }),
  });
}
print();
process.exit(0);

/** Each network, and the whole clip; each returns the milliseconds that were spent within networks. */
async function openOurs(): Promise<Record<string, () => Promise<number>>> {
  const config = <S extends v.GenericSchema>(schema: S, folder: string): v.InferOutput<S> =>
    v.parse(schema, JSON.parse(readFileSync(join(flags.model, folder, 'config.json'), 'utf8')));
  const unetOf = config(unetConfig, 'unet');
  const vaeOf = config(vaeConfig, 'vae');
  const vae = weights('vae', 'diffusion_pytorch_model');
  const one = async (graph: Graph) => {
    let inside = 0;
    const session = await openSession(graph, {
      threads,
      onRun: (ms) => {
        inside = ms;
      },
    });
    const feeds = Object.fromEntries(
      graph.inputs.map(({ name, shape }) => [name, new Float32Array(shape.reduce((a, b) => a * b, 1))]),
    );
    return async () => {
      await session.run(feeds);
      return inside;
    };
  };
  return {
    clip: await one(clipVision(weights('image_encoder', 'model'), config(clipConfig, 'image_encoder'))),
    encoder: await one(vaeEncoder(vae, vaeOf, { B: 1, H, W })),
    unet: await one(unet(weights('unet', 'diffusion_pytorch_model'), unetOf, { B: 1, T, h, w })),
    decoder: await one(vaeDecoder(vae, vaeOf, { T, h, w })),
    whole: await wholeClip(),
  };
}

async function wholeClip() {
  let inside = 0;
  const model = openSvd(flags.model, {
    threads,
    onRun: (ms) => {
      inside += ms;
    },
  });
  const still = { data: new Uint8Array(W * H * 3).fill(120), width: W, height: H };
  const sigmas = noiseLevels(steps, { discretization: 'EDMDiscretization', sigma_min: 0.002, sigma_max: 700, rho: 7 });
  const scales = guidanceScales(T, { guider: 'LinearPredictionGuider', min_guidance_scale: 1, max_cfg_scale: 3 });
  return async () => {
    inside = 0;
    const { randn } = generator(1);
    const { signal } = new AbortController();
    const clip = await model.open({
      still,
      H,
      W,
      T,
      fps: 6,
      motion_bucket_id: 127,
      cond_aug: 0.02,
      decoding_t: T,
      steps,
      randn,
      signal,
    });
    const noise = randn(T * 4 * h * w);
    const churn = { s_churn: 0, s_tmin: 0, s_tmax: 999, s_noise: 1 };
    const latents = await eulerEDM({ denoise: guided(clip.denoise, scales), noise, sigmas, randn }, churn);
    for await (const _ of clip.decode(latents));
    await clip.close();
    return inside;
  };
}

function weights(folder: string, name: string): SafeTensors {
  return openWeights(join(flags.model, folder), name);
}

/** diffusers in a process of its own; undefined where Python lacks it. */
function openPeer(): ((what: string) => Promise<number>) | undefined {
  if (spawnSync(flags.python, ['-c', 'import torch, diffusers, transformers']).status !== 0) return undefined;
  const script = fileURLToPath(new URL('svd_peer.py', import.meta.url));
  const child: ChildProcessWithoutNullStreams = spawn(flags.python, [script, flags.model]);
  let complaint = '';
  child.stderr.on('data', (text) => {
    complaint = (complaint + text).slice(-2000);
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error(`the peer ended: ${complaint}`);
    return value as string;
  };
  const ready = next();
  return async (run) => {
    await ready;
    child.stdin.write(`${JSON.stringify({ run, H, W, T, steps, threads })}\n`);
    return JSON.parse(await next()).ms;
  };
}

function print() {
  const machine = { cpu: cpus()[0]?.model, cores: cpus().length, threads, node: process.version };
  if (flags.json) {
    console.log(JSON.stringify({ machine, H, W, T, steps, rounds, rows }, null, 1));
    return;
  }
  console.log(`${W}×${H}, ${T} frames, ${steps} steps, ${threads} threads, median of ${rounds} (${machine.cpu})\n`);
  console.log('| what | ours, ms | diffusers, ms | ratio | outside the networks |\n|---|---|---|---|---|');
  for (const { what, ours_ms, diffusers_ms, ratio, outside } of rows) {
    const cells = [
      what,
      ours_ms.toFixed(0),
      diffusers_ms?.toFixed(0) ?? '–',
      ratio?.toFixed(2) ?? '–',
      outside === undefined ? '' : `${(outside * 100).toFixed(1)} %`,
    ];
    console.log(`| ${cells.join(' | ')} |`);
  }
}
