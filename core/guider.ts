/**
 * Classifier-free guidance (Ho & Salimans, arXiv:2207.12598): the conditional and the unconditional estimate of the clean latents
 * are combined into one, D = D_u + scale·(D_c − D_u), with a scale a frame.
 */

/** Which scales the frames get; the names are sgm's. */
export type Guider =
  | {
      guider: 'LinearPredictionGuider';
      /** scale of the first frame; rises, or falls, evenly */
      min_guidance_scale: number;
      /** scale of the last frame */
      max_cfg_scale: number;
    }
  | {
      guider: 'VanillaCFG';
      /** scale of every frame */
      cfg_scale: number;
    }
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

/** Estimate of the clean latents x0 from x = x0 + sigma·noise; a fresh array of x's length. */
export type Denoise = (x: Float32Array, sigma: number) => Promise<Float32Array>;

/** The same for one branch: given the still, or not. */
export type DenoiseBranch = (x: Float32Array, sigma: number, conditional: boolean) => Promise<Float32Array>;

/**
 * Both branches as one denoiser. Where no frame needs the unconditional branch (every scale 1) it is not run.
 * @param scales one a frame; x is [frames, …]
 */
export function withGuidance(denoise: DenoiseBranch, scales: readonly number[]): Denoise {
  const needsBoth = scales.some((scale) => scale !== 1);
  return async (x, sigma) => {
    const conditional = await denoise(x, sigma, true);
    if (!needsBoth) return conditional;
    const out = await denoise(x, sigma, false);
    const size = x.length / scales.length;
    scales.forEach((scale, t) => {
      for (let i = t * size; i < (t + 1) * size; i++) out[i] = out[i]! + scale * (conditional[i]! - out[i]!);
    });
    return out;
  };
}
