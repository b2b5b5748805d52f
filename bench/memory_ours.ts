/**
 * Our side of `npm run bench -- memory`: works on a model's folder, with the protocol of diffusers_peer.py. `load` gets ready for clips
 * of this size, `step` runs one guided step, `decode` decodes one chunk, `unet` opens the UNet alone, its weights mapped.
 *
 * usage: memory_ours.ts FOLDER DECODING_T
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import * as v from 'valibot';
import type { Clip } from '../handler/models/model.ts';
import { openWeights } from '../handler/models/svd/files.ts';
import { openSvd } from '../handler/models/svd.ts';
import { openSession } from '../handler/onnx/session.ts';
import { unet, unetConfig } from '../handler/onnx/unet.ts';
import { generator } from '../handler/sampling/torch-random.ts';
import { timed } from './measure.ts';
import type { PeerTask } from './peers.ts';

/** Bytes that the worker may assume: enough that it does not map the small networks' weights. */
const MEMORY = 100 * 2 ** 30;

const [folder, decoding_t] = [process.argv[2]!, Number(process.argv[3])];
const { randn } = generator(1);
let model: ReturnType<typeof openSvd>;
let clip: Clip;
let latents: Float32Array;

const parts: Record<string, (task: PeerTask) => Promise<void>> = {
  async load({ H, W, T, threads }) {
    model = openSvd(folder, { threads, memory: MEMORY });
    await model.preload({ H, W, T, decoding_t, steps: 25 });
  },
  async step({ H, W, T }) {
    const still = { data: new Uint8Array(3 * H * W).fill(120), width: W, height: H };
    const numbers = { fps: 6, motion_bucket_id: 127, cond_aug: 0.02, steps: 25, H, W, T, decoding_t };
    clip = await model.open({ ...numbers, still, randn, signal: new AbortController().signal });
    latents = randn(clip.shape.reduce((product, size) => product * size, 1));
    await clip.denoise(latents, 1, true, 0);
    await clip.denoise(latents, 1, false, 0);
  },
  async decode({ T }) {
    let frames = 0;
    for await (const _ of clip.decode(latents)) if (++frames === T) break;
  },
  async unet({ T, threads }) {
    const config = v.parse(unetConfig, JSON.parse(readFileSync(join(folder, 'unet/config.json'), 'utf8')));
    const weights = openWeights(join(folder, 'unet'), 'diffusion_pytorch_model');
    await openSession(unet(weights, config, { B: 1, T, h: 36, w: 64 }, { policy: 'mapped' }), { threads });
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const task: PeerTask = JSON.parse(line);
  console.log(JSON.stringify({ ms: await timed(() => parts[task.run]!(task)) }));
}
process.exit(0);
