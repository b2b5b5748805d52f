import type { Discretization } from './discretization.ts';
import type { Guider } from './guider.ts';
import type { Sampler } from './sampler-options.ts';

/** The values that a model was trained for: the defaults of requests. */
export interface Preset {
  /** frame height and width in pixels: multiples of 8 for the latents, of 2 for the encoder */
  H: number;
  W: number;
  /** frames of a clip */
  T: number;
  /** frames a second */
  fps: number;
  steps: number;
  sampler: Sampler['sampler'];
  discretization: Discretization;
  guider: Guider;
}

const EDM = { discretization: 'EDMDiscretization', sigma_min: 0.002, sigma_max: 700, rho: 7 } as const;
const svd = {
  H: 576,
  W: 1024,
  T: 14,
  fps: 6,
  steps: 25,
  sampler: 'EulerEDMSampler',
  discretization: EDM,
  guider: { guider: 'LinearPredictionGuider', min_guidance_scale: 1, max_cfg_scale: 2.5 },
} satisfies Preset;
const svd_xt = { ...svd, T: 25, steps: 30, guider: { ...svd.guider, min_guidance_scale: 1.5, max_cfg_scale: 3 } };

/** The SVD models' settings (Stability-AI/generative-models, scripts/demo/video_sampling.py); the camera samples like SVD. */
export const presets = {
  camera: { ...svd, H: 480, W: 848, T: 73, fps: 24, steps: 12 },
  svd,
  svd_xt,
  svd_xt_1_1: svd_xt,
  // G-U-N/AnimateLCM, animatelcm_svd: its demo, but without guidance
  animatelcm_svd_xt: {
    ...svd_xt,
    fps: 7,
    steps: 4,
    sampler: 'LCMSampler',
    discretization: { discretization: 'LCMDiscretization' },
    guider: { guider: 'IdentityGuider' },
  },
} satisfies Record<string, Preset>;

export type ModelName = keyof typeof presets;

/**
 * Sets of sampling parameters. `exact` has the model's own. `fast` has the levels of Align Your Steps at the 10 steps that they were
 * published for, with DPM-Solver++(2M): it follows them more closely than Euler's method does. Every second step runs a part of the network.
 * `draft` has those of AnimateLCM, whose UNet makes its clips.
 */
export const SPEEDS = {
  exact: {},
  fast: {
    steps: 10,
    sampler: 'DPMPP2MSampler',
    discretization: 'AlignYourStepsDiscretization',
    cache_interval: 2,
    cache_depth: 2,
  },
  draft: {
    fps: presets.animatelcm_svd_xt.fps,
    steps: presets.animatelcm_svd_xt.steps,
    sampler: presets.animatelcm_svd_xt.sampler,
    ...presets.animatelcm_svd_xt.discretization,
    ...presets.animatelcm_svd_xt.guider,
  },
} as const;

export type Speed = keyof typeof SPEEDS;

/** The speed whose clips have another model's UNet. It was distilled from that of `model`, whose other networks it needs. */
export const DRAFT = { speed: 'draft', model: 'svd_xt', unet: 'animatelcm_svd_xt' } as const;
