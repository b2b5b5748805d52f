/**
 * `npm run bench -- svd`: each network in its real size beside diffusers and beside a plain matrix product, by turns, with the same weights
 * and threads; and, with the tests' small networks, where it shows most, how much of a whole clip is spent outside of networks.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as v from 'valibot';
import { noiseLevels } from '../core/discretization.ts';
import { guidanceScales, withGuidance } from '../core/guider.ts';
import { openSvd, openWeights } from '../handler/models/svd.ts';
import { clipConfig, clipVision } from '../handler/onnx/clip.ts';
import { createGraph, type Graph } from '../handler/onnx/graph.ts';
import { NO_WEIGHTS } from '../handler/onnx/safetensors.ts';
import { openSession } from '../handler/onnx/session.ts';
import { unet, unetConfig } from '../handler/onnx/unet.ts';
import { vaeConfig, vaeDecoder, vaeEncoder } from '../handler/onnx/vae.ts';
import type { Policy } from '../handler/onnx/value.ts';
import { eulerEDM } from '../handler/sampling/samplers.ts';
import { generator } from '../handler/sampling/torch-random.ts';
import { diffusersPython, openPeer, type Peer } from './diffusers.ts';
import { readFlags } from './flags.ts';
import { fullSize } from './full-size.ts';
import { byTurns, type Pair, type Row, row, settle, tell, timed } from './report.ts';

const SMALL = fileURLToPath(new URL('../handler/models/testdata/small-svd', import.meta.url));
const MATRIX = 2048; // rows and columns of the product that shows what the processor can do
const PRODUCTS = 4; // in a measurement of a tenth of a second or more

const flags = readFlags({
  /** a folder as for MODEL_DIR, for the networks; default: one of svd_xt's size is made */
  model: { type: 'string' },
  H: { type: 'string', default: '192' },
  W: { type: 'string', default: '256' },
  T: { type: 'string', default: '7' },
  /** of the whole clip, which is of 256×384 */
  steps: { type: 'string', default: '4' },
  threads: { type: 'string', default: '2' },
  rounds: { type: 'string', default: '3' },
  /** which networks, by name; default: all */
  only: { type: 'string', default: 'clip,encoder,unet,decoder,whole' },
  /** a Python with torch and diffusers; default: installed */
  python: { type: 'string' },
});
const [H, W, T, steps, threads, rounds] = [flags.H, flags.W, flags.T, flags.steps, flags.threads, flags.rounds].map(
  Number,
) as [number, number, number, number, number, number];
const only = flags.only.split(',');

const NAMES = { clip: 'CLIP', encoder: 'VAE encoder', unet: 'UNet', decoder: 'temporal decoder' };
const unknown = only.find((name) => name !== 'whole' && !(name in NAMES));
if (unknown !== undefined) throw new Error(`--only ${unknown}: one or more of ${Object.keys(NAMES)},whole`);

const peerPython = await diffusersPython(flags.python);
const rows: Row[] = [];
await measureNetworks();
if (only.includes('whole')) await measureWhole();
tell(
  `Networks ${flags.model ? `of ${flags.model}` : 'of svd_xt’s size, weights of zeros'}: ${W}×${H}, ${T} frames; ${threads} threads; ${rounds} rounds. A rate counts every convolution’s products, also those that were saved.`,
  rows,
);
process.exit(0);

async function measureNetworks() {
  const made = flags.model ? undefined : fullSize();
  const folder = flags.model ?? made!.folder;
  const peer = peerPython ? openPeer(peerPython, folder) : undefined;
  const sgemm = await matrixProduct(peerPython ? openPeer(peerPython, folder) : undefined);
  try {
    for (const [name, graph] of Object.entries(networks(folder))) {
      if (!only.includes(name)) continue;
      const written = graph('prepacked');
      const operations = graph('mapped').operations(); // of convolutions as they are defined, with all their products
      const session = await openSession(written, { threads });
      const feeds = Object.fromEntries(
        written.inputs.map(({ name, shape }) => [name, new Float32Array(shape.reduce((a, b) => a * b, 1))]),
      );
      const rates: Pair[] = [];
      const run = async () => {
        const ms = await timed(() => session.run(feeds));
        rates.push({ ours: operations / ms / 1e6, theirs: await sgemm.rate() });
        return ms;
      };
      const label = NAMES[name as keyof typeof NAMES];
      const theirs = peer && (() => peer.run({ run: name, H, W, T, steps, threads }));
      const pairs = await byTurns(rounds, run, theirs);
      rows.push(
        row(label, 'ms', pairs, { peer: 'diffusers', aim: { of: 'ratio', most: 0.75 } }),
        row(`${label}, rate`, 'GFLOP/s', rates.slice(1), { peer: sgemm.name, aim: { of: 'ratio', least: 0.85 } }),
      );
      await session.close();
    }
  } finally {
    peer?.close();
    sgemm.close();
    made?.remove();
  }
}

function networks(folder: string): Record<keyof typeof NAMES, (policy: Policy) => Graph> {
  const config = <S extends v.GenericSchema>(schema: S, name: string): v.InferOutput<S> =>
    v.parse(schema, JSON.parse(readFileSync(join(folder, name, 'config.json'), 'utf8')));
  const weights = (name: string, file = 'diffusion_pytorch_model') => openWeights(join(folder, name), file);
  const [h, w] = [H / 8, W / 8];
  return {
    clip: (policy) => clipVision(weights('image_encoder', 'model'), config(clipConfig, 'image_encoder'), { policy }),
    encoder: (policy) => vaeEncoder(weights('vae'), config(vaeConfig, 'vae'), { B: 1, H, W }, { policy }),
    unet: (policy) => unet(weights('unet'), config(unetConfig, 'unet'), { B: 1, T, h, w }, { policy }),
    decoder: (policy) => vaeDecoder(weights('vae'), config(vaeConfig, 'vae'), { T, h, w }, { policy }),
  };
}

/** What the processor reaches in a product of square matrices: torch's, where there is one, for it is the faster. */
async function matrixProduct(peer: Peer | undefined) {
  const rateOf = (ms: number) => (2 * MATRIX ** 3) / ms / 1e6; // GFLOP/s
  const best = async (once: () => Promise<number>) => {
    await settle();
    let least = Number.POSITIVE_INFINITY;
    for (let i = 0; i < PRODUCTS; i++) least = Math.min(least, await once());
    return rateOf(least);
  };
  const name = `sgemm ${MATRIX}³`;
  if (peer) {
    const once = () => peer.run({ run: 'sgemm', H, W, T, steps, threads });
    return { name: `${name}, torch`, rate: () => best(once), close: peer.close };
  }
  const g = createGraph(NO_WEIGHTS);
  const operands = ['a', 'b'].map((name) => g.input(name, [MATRIX, MATRIX]));
  g.output('product', g.op('MatMul', operands, [MATRIX, MATRIX]));
  const session = await openSession(g, { threads });
  const feeds = { a: new Float32Array(MATRIX ** 2).fill(0.5), b: new Float32Array(MATRIX ** 2).fill(0.5) };
  const once = () => timed(() => session.run(feeds));
  return { name: `${name}, onnxruntime`, rate: () => best(once), close: () => void session.close() };
}

/** A clip as the worker makes it, from the still to bytes. */
async function measureWhole() {
  const [H, W] = [256, 384];
  let inside = 0;
  const model = openSvd(SMALL, {
    threads,
    onRun: (ms) => {
      inside += ms;
    },
  });
  const still = { data: new Uint8Array(W * H * 3).fill(120), width: W, height: H };
  const sigmas = noiseLevels(steps, { discretization: 'EDMDiscretization', sigma_min: 0.002, sigma_max: 700, rho: 7 });
  const scales = guidanceScales(T, { guider: 'LinearPredictionGuider', min_guidance_scale: 1, max_cfg_scale: 3 });
  const numbers = { H, W, T, fps: 6, motion_bucket_id: 127, cond_aug: 0.02, decoding_t: T, steps };
  async function clip() {
    const { randn } = generator(1);
    const clip = await model.open({ ...numbers, still, randn, signal: new AbortController().signal });
    const noise = randn((T * 4 * H * W) / 64);
    const churn = { s_churn: 0, s_tmin: 0, s_tmax: 999, s_noise: 1 };
    const latents = await eulerEDM({ denoise: withGuidance(clip.denoise, scales), noise, sigmas, randn }, churn);
    for await (const _ of clip.decode(latents));
    await clip.close();
  }
  const outside: Pair[] = [];
  const peer = peerPython ? openPeer(peerPython, SMALL) : undefined;
  const pairs = await byTurns(
    rounds,
    async () => {
      inside = 0;
      const ms = await timed(clip);
      outside.push({ ours: 100 * (1 - inside / ms) });
      return ms;
    },
    peer && (() => peer.run({ run: 'whole', H, W, T, steps, threads })),
  );
  peer?.close();
  rows.push(
    row('whole clip, small networks', 'ms', pairs, { peer: 'diffusers', aim: { of: 'ratio', most: 0.75 } }),
    row('whole clip outside of networks', '%', outside.slice(1), { aim: { of: 'ours', most: 3 } }),
  );
}
