/**
 * `npm run bench -- fast`: clips of narrow networks at each speed. One peer is diffusers with its default 25 steps. The other is
 * diffusers with the same noise levels, guidance and cached features, which DeepCache's own package caches. diffusers samples by Euler's
 * method, which takes as many evaluations. These are counted too: they depend on no machine.
 */
import { join } from 'node:path';
import * as v from 'valibot';
import { countEvaluations } from '../api/tasks/estimate.ts';
import { noiseLevels } from '../core/discretization.ts';
import { guidanceScales } from '../core/guider.ts';
import { jobSchema, type SizedJob } from '../core/job.ts';
import { DRAFT, SPEEDS } from '../core/presets.ts';
import { parseRequest } from '../core/request.ts';
import { openSvd } from '../handler/models/svd.ts';
import { generator } from '../handler/sampling/torch-random.ts';
import { sampleLatents } from '../handler/video/make-video.ts';
import { numberFlags, settle, timed } from './measure.ts';
import { diffusers } from './peers.ts';
import { type Aim, type Pair, type Report, type Row, row } from './report.ts';
import { makeSvdXt, NARROW_SVD_XT } from './svd-xt.ts';

const { H, W, T, threads, rounds } = numberFlags({ H: 256, W: 384, T: 7, threads: 2, rounds: 1 });
const DIFFUSERS_STEPS = 25;
const signal = new AbortController().signal;

/** Aims: of the time of diffusers' default clip, and of the evaluations of `exact`. */
const AIMS: Partial<Record<string, { time: number; evaluations: number }>> = {
  fast: { time: 0.13, evaluations: 0.25 },
  draft: { time: 0.07, evaluations: 0.1 },
};
const most = (bound?: number): Aim | undefined => (bound === undefined ? undefined : { of: 'ratio', most: bound });

/** The job that a request without further parameters becomes. */
function jobOf(speed: string): SizedJob {
  const context = { limits: { maxFrames: T, maxFps: 30 }, model: DRAFT.model, hasImage: false, seed: 1 };
  const values = { image_url: 'https://example.com/still.png', H, W, T, decoding_t: T, speed };
  const { speed: _, ...input } = parseRequest(values, context).input;
  const unet = speed === DRAFT.speed && { unet: DRAFT.unet };
  const task_id = '01a206ec-8c81-72d2-88c2-373f04644e4a';
  return v.parse(jobSchema, { ...input, model: DRAFT.model, ...unet, task_id }) as SizedJob;
}

export async function run(): Promise<Report> {
  const made = makeSvdXt(NARROW_SVD_XT);
  const draftUnet = join(made.folder, 'unet/diffusion_pytorch_model.safetensors'); // the times don't depend on the weights
  const model = openSvd(made.folder, { threads, draftUnet });
  const peer = (await diffusers())?.(made.folder);
  const still = { data: new Uint8Array(W * H * 3).fill(120), width: W, height: H };
  let evaluations = 0;
  async function makeClip(job: SizedJob) {
    const { randn } = generator(1);
    const clip = await model.open({ ...job, still, randn, signal });
    const denoise: typeof clip.denoise = (...args) => {
      evaluations++;
      return clip.denoise(...args);
    };
    const latents = await sampleLatents({ ...clip, denoise }, job, { randn, signal });
    for await (const _ of clip.decode(latents));
    await clip.close();
  }
  const theirs = async (more: object) => {
    await settle();
    return peer && { theirs: await peer.run({ run: 'whole', H, W, T, threads, ...more }) };
  };

  const clips = Object.keys(SPEEDS).map((speed) => {
    return { label: speed, job: jobOf(speed), evaluations: 0, byDefault: [] as Pair[], same: [] as Pair[] };
  });
  try {
    await theirs({ steps: 1 }); // warms up
    for (const { job } of clips) await makeClip({ ...job, steps: 2 }); // with 1 nothing is cached
    for (let round = 0; round < rounds; round++) {
      const standard = await theirs({ steps: DIFFUSERS_STEPS });
      for (const clip of clips) {
        const { job } = clip;
        const settings = {
          sigmas: noiseLevels(job.steps, job),
          guidance: Math.max(...guidanceScales(T, job)),
          cache: { interval: job.cache_interval, depth: job.cache_depth },
        };
        const same = await theirs(settings);
        await settle();
        evaluations = 0;
        const ours = await timed(() => makeClip(job));
        clip.evaluations = evaluations;
        clip.byDefault.push({ ours, ...standard });
        clip.same.push({ ours, ...same });
      }
    }
  } finally {
    peer?.close();
    await model.close();
    made.remove();
  }

  const wholes = clips.map(({ job }) => 2 * countEvaluations(job));
  return {
    how: `Clips by svd_xt’s layers, a fifth as wide (the VAE’s a quarter): ${W}×${H}, ${T} frames; ${threads} threads; ${rounds} rounds. A whole evaluation is one branch of guidance without cached features; cached ones count as their share of svd_xt’s arithmetic.`,
    rows: clips.flatMap(({ label, evaluations, byDefault, same }, i): Row[] => {
      const aim = AIMS[label];
      const whole = { ours: wholes[i]!, theirs: wholes[0]! };
      return [
        row(`${label}: evaluations of the UNet`, '', [{ ours: evaluations }]),
        row(`${label}: the same in whole evaluations`, '', [whole], { peer: 'exact', aim: most(aim?.evaluations) }),
        row(`${label}: a clip`, 'ms', byDefault, {
          peer: `diffusers, ${DIFFUSERS_STEPS} steps`,
          aim: most(aim?.time),
        }),
        ...(peer ? [row(`${label}: a clip`, 'ms', same, { peer: 'diffusers, same levels and cache' })] : []),
      ];
    }),
  };
}
