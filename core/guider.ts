/**
 * Classifier-free guidance (Ho & Salimans, arXiv:2207.12598): the conditional and the unconditional estimate of the clean latents
 * are combined into one, D = D_u + scale·(D_c − D_u), with a scale a frame.
 */

/** The noise levels with guidance, (min, max]: Kynkäänniemi et al. 2024 (arXiv:2404.07724). Without bounds these are all. */
export interface GuidanceInterval {
  /** no guidance at this sigma or below, ≥ 0 */
  guidance_sigma_min?: number | undefined;
  /** no guidance above this sigma, > guidance_sigma_min */
  guidance_sigma_max?: number | undefined;
}

/** Which scales the frames get, and at which noise levels; the names of guiders are sgm's. */
export type Guider =
  | ({
      guider: 'LinearPredictionGuider';
      /** scale of the first frame; rises, or falls, evenly */
      min_guidance_scale: number;
      /** scale of the last frame */
      max_cfg_scale: number;
    } & GuidanceInterval)
  | ({
      guider: 'VanillaCFG';
      /** scale of every frame */
      cfg_scale: number;
    } & GuidanceInterval)
  | { guider: 'IdentityGuider' };

/** @returns `frames` scales. A single frame under the linear guider gets the minimum, as in the reference. */
export function guidanceScales(frames: number, guider: Guider): number[] {
  if (guider.guider === 'LinearPredictionGuider') {
    const { min_guidance_scale: first, max_cfg_scale: last } = guider;
    return Array.from({ length: frames }, (_, t) => first + ((last - first) * t) / Math.max(1, frames - 1));
  }
  // Scale 1 is no guidance: D_u + 1·(D_c − D_u) is D_c.
  return Array<number>(frames).fill(guider.guider === 'VanillaCFG' ? guider.cfg_scale : 1);
}

/**
 * Estimate of the clean latents x0 from x = x0 + sigma·noise; a fresh array of x's length. `step` is the sampler's step, from 0: a sampler
 * may evaluate twice in one step, and a model may reuse in some steps what it computed in others.
 */
export type Denoise = (x: Float32Array, sigma: number, step: number) => Promise<Float32Array>;

/** The same for one branch: given the still, or not. */
export type DenoiseBranch = (
  x: Float32Array,
  sigma: number,
  conditional: boolean,
  step: number,
) => Promise<Float32Array>;

/** The noise levels at which the guider needs both branches. */
export const guidanceInterval = (guider: Guider): GuidanceInterval =>
  guider.guider === 'IdentityGuider' ? {} : guider;

/** Whether sigma, or any level from sigma down to `lowest`, has guidance. */
export const isInInterval = (
  sigma: number,
  { guidance_sigma_min = 0, guidance_sigma_max = Infinity }: GuidanceInterval,
  lowest = sigma,
): boolean => guidance_sigma_min < sigma && lowest <= guidance_sigma_max;

/**
 * Both branches as one denoiser. Where no frame needs the unconditional branch (every scale 1, or a sigma outside of the interval) it is
 * not run.
 * @param scales one a frame; x is [frames, …]
 */
export function withGuidance(
  denoise: DenoiseBranch,
  scales: readonly number[],
  interval: GuidanceInterval = {},
): Denoise {
  const needsBoth = scales.some((scale) => scale !== 1);
  return async (x, sigma, step) => {
    const conditional = await denoise(x, sigma, true, step);
    if (!needsBoth || !isInInterval(sigma, interval)) return conditional;
    const out = await denoise(x, sigma, false, step);
    const size = x.length / scales.length;
    scales.forEach((scale, t) => {
      for (let i = t * size; i < (t + 1) * size; i++) out[i] = out[i]! + scale * (conditional[i]! - out[i]!);
    });
    return out;
  };
}
