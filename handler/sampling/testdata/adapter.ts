/** The project's functions as the reference's golden checker names them; state is float32. Pillow's resizes have no part: frames are fitted by sharp. */
import { clipResize } from '../../models/svd/clip-resize.ts';
import { addedTimeIds, timestepEmbedding } from '../../models/svd/conditioning.ts';
import { scaling, vPrediction } from '../../models/svd/preconditioning.ts';
import { alignYourStepsSigmas, edmSigmas, lcmSigmas, legacyDDPMSigmas, legacyTimesteps } from '../../../core/discretization.ts';
import { guidanceScales, withGuidance, type Guider } from '../../../core/guider.ts';
import { generator } from '../torch-random.ts';
import * as samplers from '../samplers.ts';

type Numbers = ArrayLike<number>;
type Params = Record<string, number>;

const sigmasOf = (name: string, params: Params, n: number) => {
  if (name === 'AlignYourStepsDiscretization') return alignYourStepsSigmas(n);
  if (name === 'LCMDiscretization') return lcmSigmas(n);
  return name === 'EDMDiscretization' ? edmSigmas(n, params as never) : legacyDDPMSigmas(n, params);
};

const guiderOf = (name: string, params: Params): Guider => {
  if (name === 'VanillaCFG') return { guider: name, cfg_scale: params.scale! };
  if (name === 'IdentityGuider') return { guider: name };
  return { guider: 'LinearPredictionGuider', min_guidance_scale: params.min_scale!, max_cfg_scale: params.max_scale! };
};

const repeated = (scales: number[], videos: number) => Array<number[]>(videos).fill(scales).flat();

interface SampleCase {
  sampler: string;
  params: Params;
  guider: { name: string; params: Params };
  /** sigmas with guidance: above the first, up to the second */
  interval?: [number, number] | undefined;
  B: number;
  T: number;
  sigmas: number[];
  x0: Numbers;
  network: (xin: Numbers, cNoise: number, branch: 'cond' | 'uncond') => Numbers;
  noise: (k: number) => Numbers;
  onStep: (i: number, x: Numbers) => void;
}

export default {
  sigmas: sigmasOf,
  legacyTimesteps: ({ num_timesteps }: Params, n: number) => legacyTimesteps(n, num_timesteps),
  scaling,
  guidanceScale: (name: string, params: Params, T: number) => (name === 'IdentityGuider' ? null : guidanceScales(T, guiderOf(name, params))),
  async guide({ name, params, B, T, uncond, cond }: { name: string; params: Params; B: number; T: number; uncond?: number[]; cond: number[] }) {
    const scales = repeated(guidanceScales(T, guiderOf(name, params)), B);
    const denoise = withGuidance(async (_x, _sigma, conditional) => Float32Array.from(conditional ? cond : uncond!), scales);
    return denoise(Float32Array.from(cond), 1, 0);
  },
  ancestralStep: samplers.ancestralStep,
  lmsCoeffs: (sigmas: number[], order: number, i: number) => samplers.multistepCoefficients(sigmas, Math.min(i + 1, order), i),
  async sample({ sampler, params, guider, interval: [guidance_sigma_min, guidance_sigma_max] = [0, Infinity], B, T, sigmas, x0, network, noise, onStep }: SampleCase) {
    const run = {
      EulerEDM: samplers.eulerEDM,
      HeunEDM: samplers.heunEDM,
      EulerAncestral: samplers.eulerAncestral,
      DPMPP2SAncestral: samplers.dpmpp2sAncestral,
      DPMPP2M: samplers.dpmpp2m,
      LinearMultistep: samplers.linearMultistep,
      LCM: samplers.lcm,
    }[sampler] as (sampling: samplers.Sampling, params: Params) => Promise<Float32Array>;
    const branch = vPrediction(async (x, cNoise, conditional) => Float32Array.from(network(x, cNoise, conditional ? 'cond' : 'uncond')));
    let drawn = 0;
    return run(
      {
        denoise: withGuidance(branch, repeated(guidanceScales(T, guiderOf(guider.name, guider.params)), B), { guidance_sigma_min, guidance_sigma_max }),
        noise: Float32Array.from(x0),
        sigmas,
        randn: () => Float32Array.from(noise(drawn++)),
        onStep: (step, x) => onStep(step - 1, x),
      },
      params,
    );
  },
  randn: (seed: number, n: number, dtype: 'float32' | 'float16') => generator(seed).randn(n, dtype),
  generator,
  resizeClip: clipResize,
  diffusersSchedule(n: number, { sigma_min, sigma_max }: Params) {
    const sigmas = edmSigmas(n, { sigma_min: sigma_min!, sigma_max: sigma_max!, rho: 7 });
    return { sigmas, timesteps: sigmas.slice(0, -1).map((sigma) => scaling(sigma).c_noise), init_noise_sigma: Math.sqrt(sigma_max! ** 2 + 1) };
  },
  addedTimeIds: ({ fps, motion_bucket_id, noise_aug_strength }: Params) =>
    addedTimeIds({ fps: fps!, motion_bucket_id: motion_bucket_id!, cond_aug: noise_aug_strength! }),
  timestepEmbedding,
};
