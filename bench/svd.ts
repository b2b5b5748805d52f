/**
 * `npm run bench -- svd`: each network in its real size against diffusers and against a plain matrix product, alternating, with the same
 * weights and threads. Then, with the tests' small networks, where it shows most: how much of a whole clip is spent outside of networks.
 */
import { noiseLevels } from '../core/discretization.ts';
import { guidanceScales, withGuidance } from '../core/guider.ts';
import { openFiles } from '../handler/models/svd/files.ts';
import { openSvd } from '../handler/models/svd.ts';
import type { Graph } from '../handler/onnx/graph.ts';
import { clipVision } from '../handler/onnx/image-encoder.ts';
import { openSession } from '../handler/onnx/session.ts';
import { unet } from '../handler/onnx/unet.ts';
import { vaeDecoder, vaeEncoder } from '../handler/onnx/vae.ts';
import type { Policy } from '../handler/onnx/value.ts';
import { eulerEDM } from '../handler/sampling/samplers.ts';
import { generator } from '../handler/sampling/torch-random.ts';
import { comparePairs, numberFlags, settle, timed } from './measure.ts';
import { diffusers, type Peer, SMALL_SVD } from './peers.ts';
import { type Pair, type Report, type Row, row } from './report.ts';
import { makeSvdXt } from './svd-xt.ts';

const MATRIX = 2048; // rows and columns, as in diffusers_peer.py
const PRODUCTS = 4; // the best of them counts

/** Steps are those of the whole clip. */
const { H, W, T, steps, threads, rounds } = numberFlags({ H: 192, W: 256, T: 7, steps: 4, threads: 2, rounds: 3 });

export async function run(): Promise<Report> {
  const start = await diffusers();
  return {
    how: `Networks of svd_xt’s size, weights of zeros: ${W}×${H}, ${T} frames; ${threads} threads; ${rounds} rounds. A rate counts every convolution’s products, also those that were saved.`,
    rows: [...(await measureNetworks(start)), ...(await measureWhole(start?.(SMALL_SVD)))],
  };
}

async function measureNetworks(start: Awaited<ReturnType<typeof diffusers>>): Promise<Row[]> {
  const rows: Row[] = [];
  const made = makeSvdXt();
  const [peer, multiplier] = [start?.(made.folder), start?.(made.folder)];
  try {
    for (const [run, { label, graph }] of Object.entries(networks(made.folder))) {
      const written = graph('prepacked');
      const operations = graph('mapped').operations(); // of convolutions as they are defined, with all their products
      const session = await openSession(written, { threads });
      const feeds = Object.fromEntries(
        written.inputs.map(({ name, shape }) => [name, new Float32Array(shape.reduce((a, b) => a * b, 1))]),
      );
      const rates: Pair[] = [];
      const ours = async () => {
        const ms = await timed(() => session.run(feeds));
        rates.push({ ours: operations / ms / 1e6, ...(multiplier && { theirs: await productRate(multiplier) }) });
        return ms;
      };
      const pairs = await comparePairs(rounds, ours, peer && (() => peer.run({ run, H, W, T, threads })));
      rows.push(
        row(label, 'ms', pairs, { peer: 'diffusers', aim: { of: 'ratio', most: 0.75 } }),
        row(`${label}, rate`, 'GFLOP/s', rates.slice(1), {
          peer: `sgemm ${MATRIX}³, torch`,
          aim: { of: 'ratio', least: 0.85 },
        }),
      );
      await session.close();
    }
  } finally {
    peer?.close();
    multiplier?.close();
    made.remove();
  }
  return rows;
}

function networks(folder: string): Record<string, { label: string; graph: (policy: Policy) => Graph }> {
  const { configs, weights } = openFiles(folder);
  const { clip, vae } = configs;
  const [h, w] = [H / 8, W / 8];
  return {
    clip: { label: 'CLIP', graph: (policy) => clipVision(weights.clip, clip, { policy }) },
    encoder: { label: 'VAE encoder', graph: (policy) => vaeEncoder(weights.vae, vae, { B: 1, H, W }, { policy }) },
    unet: { label: 'UNet', graph: (policy) => unet(weights.unet, configs.unet, { B: 1, T, h, w }, { policy }) },
    decoder: { label: 'temporal decoder', graph: (policy) => vaeDecoder(weights.vae, vae, { T, h, w }, { policy }) },
  };
}

/** What the processor reaches in torch's product of square matrices, GFLOP/s. */
async function productRate(peer: Peer): Promise<number> {
  await settle();
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0; i < PRODUCTS; i++) least = Math.min(least, await peer.run({ run: 'sgemm', H, W, T, threads }));
  return (2 * MATRIX ** 3) / least / 1e6;
}

/** A clip of 384×256 as the worker makes it, from the still to frames. */
async function measureWhole(peer: Peer | undefined): Promise<Row[]> {
  const [H, W] = [256, 384];
  let inside = 0; // milliseconds within networks
  const model = openSvd(SMALL_SVD, {
    threads,
    onRun: (ms) => {
      inside += ms;
    },
  });
  const still = { data: new Uint8Array(W * H * 3).fill(120), width: W, height: H };
  const sigmas = noiseLevels(steps, { discretization: 'EDMDiscretization', sigma_min: 0.002, sigma_max: 700, rho: 7 });
  const scales = guidanceScales(T, { guider: 'LinearPredictionGuider', min_guidance_scale: 1, max_cfg_scale: 3 });
  const numbers = { H, W, T, fps: 6, motion_bucket_id: 127, cond_aug: 0.02, decoding_t: T, steps };
  async function makeClip() {
    const { randn } = generator(1);
    const clip = await model.open({ ...numbers, still, randn, signal: new AbortController().signal });
    const noise = randn((T * 4 * H * W) / 64);
    const churn = { s_churn: 0, s_tmin: 0, s_tmax: 999, s_noise: 1 };
    const latents = await eulerEDM({ denoise: withGuidance(clip.denoise, scales), noise, sigmas, randn }, churn);
    for await (const _ of clip.decode(latents));
    await clip.close();
  }
  const outside: Pair[] = []; // per cent
  const ours = async () => {
    inside = 0;
    const ms = await timed(makeClip);
    outside.push({ ours: 100 * (1 - inside / ms) });
    return ms;
  };
  const pairs = await comparePairs(rounds, ours, peer && (() => peer.run({ run: 'whole', H, W, T, steps, threads })));
  peer?.close();
  return [
    row('whole clip, small networks', 'ms', pairs, { peer: 'diffusers', aim: { of: 'ratio', most: 0.75 } }),
    row('whole clip outside of networks', '%', outside.slice(1), { aim: { of: 'ours', most: 3 } }),
  ];
}
