/**
 * Samplers: each is its algorithm, over a denoise function and descending sigmas that end in 0. Nothing here knows of networks,
 * stills or jobs. Latents are Float32Array; a sampler never writes into one that it was given.
 */
import type { Denoise } from './guider.ts';

/** What every sampler is given besides its own parameters. */
export interface Sampling {
  denoise: Denoise;
  /** unit noise, from which sampling starts */
  noise: Float32Array;
  /** steps + 1 noise levels, descending, the last one 0 */
  sigmas: readonly number[];
  /** draws n unit normals, in the order of the reference */
  randn: (n: number) => Float32Array;
  /** called after each finished step, 1 … steps */
  onStep?: (step: number, x: Float32Array) => void;
  /** checked before each step; an aborted sampler rejects with the signal's reason */
  signal?: AbortSignal;
}

/** Stochasticity of Karras et al. 2022, algorithm 2: each ≥ 0, s_tmax may be Infinity. */
export interface Churn {
  s_churn: number;
  s_tmin: number;
  s_tmax: number;
  s_noise: number;
}

/** Unit noise brought to the first noise level: sgm and diffusers use √(1 + σ₀²), not σ₀. */
function prepare(noise: Float32Array, sigma: number): Float32Array {
  const scale = Math.sqrt(1 + sigma ** 2);
  return noise.map((value) => value * scale);
}

/** Karras et al. 2022, algorithm 2 without its second-order correction; without churn it is Euler's method (DDIM). */
export async function eulerEDM(
  { denoise, noise, sigmas, randn, onStep, signal }: Sampling,
  { s_churn, s_tmin, s_tmax, s_noise }: Churn,
): Promise<Float32Array> {
  let x = prepare(noise, sigmas[0]!);
  const steps = sigmas.length - 1;
  for (let i = 0; i < steps; i++) {
    signal?.throwIfAborted();
    const sigma = sigmas[i]!;
    const gamma = sigma >= s_tmin && sigma <= s_tmax ? Math.min(s_churn / steps, Math.SQRT2 - 1) : 0;
    const sigma_hat = sigma * (1 + gamma);
    if (gamma > 0) {
      const eps = randn(x.length);
      const scale = s_noise * Math.sqrt(sigma_hat ** 2 - sigma ** 2);
      x = x.map((value, j) => value + scale * eps[j]!);
    }
    const denoised = await denoise(x, sigma_hat);
    const dt = sigmas[i + 1]! - sigma_hat;
    x = x.map((value, j) => value + dt * ((value - denoised[j]!) / sigma_hat)); // d = (x − D) / sigma_hat
    onStep?.(i + 1, x);
  }
  return x;
}
