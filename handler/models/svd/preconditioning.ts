/** SVD's network as a denoiser: v-prediction with EDM's preconditioning (sgm's VScalingWithEDMcNoise; Karras et al. 2022, eq. 7). */
import type { DenoiseBranch } from '../../../core/guider.ts';

/** @param sigma > 0 */
export function scaling(sigma: number): { c_skip: number; c_out: number; c_in: number; c_noise: number } {
  return {
    c_skip: 1 / (sigma ** 2 + 1),
    c_out: -sigma / Math.sqrt(sigma ** 2 + 1),
    c_in: 1 / Math.sqrt(sigma ** 2 + 1),
    c_noise: 0.25 * Math.log(sigma),
  };
}

/** Karras' F of one branch, without preconditioning: takes the latents times c_in and c_noise, returns v, of the latents' length. */
export type RawNetwork = (
  x: Float32Array,
  c_noise: number,
  conditional: boolean,
  step: number,
) => Promise<Float32Array>;

/** D(x; sigma) = c_skip·x + c_out·F(c_in·x, c_noise) */
export function vPrediction(network: RawNetwork): DenoiseBranch {
  return async (x, sigma, conditional, step) => {
    const { c_skip, c_out, c_in, c_noise } = scaling(sigma);
    const F = await network(
      x.map((value) => c_in * value),
      c_noise,
      conditional,
      step,
    );
    return x.map((value, i) => c_skip * value + c_out * F[i]!);
  };
}
