/**
 * Samplers: each is its algorithm, over a denoise function and descending sigmas that end in 0. Nothing here knows of networks,
 * stills or jobs. Latents are Float32Array; a sampler never writes into one that it was given.
 */
import type { Denoise } from '../../core/guider.ts';
import type { Ancestral, Churn, Sampler } from '../../core/sampler-options.ts';

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

/** Runs the chosen sampler. @returns the clean latents, of the noise's length */
export function sample(sampling: Sampling, choice: Sampler): Promise<Float32Array> {
  switch (choice.sampler) {
    case 'EulerEDMSampler':
      return eulerEDM(sampling, choice);
    case 'HeunEDMSampler':
      return heunEDM(sampling, choice);
    case 'EulerAncestralSampler':
      return eulerAncestral(sampling, choice);
    case 'DPMPP2SAncestralSampler':
      return dpmpp2sAncestral(sampling, choice);
    case 'DPMPP2MSampler':
      return dpmpp2m(sampling);
    case 'LinearMultistepSampler':
      return linearMultistep(sampling, choice);
  }
}

/** Unit noise brought to the first noise level: sgm and diffusers use √(1 + σ₀²), not σ₀. */
function prepare(noise: Float32Array, sigma: number): Float32Array {
  const scale = Math.sqrt(1 + sigma ** 2);
  return noise.map((value) => value * scale);
}

/** Karras et al. 2022, algorithm 2 without its second-order correction; without churn it is Euler's method (DDIM). */
export async function eulerEDM(sampling: Sampling, churn: Churn): Promise<Float32Array> {
  const { denoise, noise, sigmas, onStep, signal } = sampling;
  let x = prepare(noise, sigmas[0]!);
  for (let i = 0; i < sigmas.length - 1; i++) {
    signal?.throwIfAborted();
    const hat = addChurn(x, sigmas[i]!, sampling, churn);
    const denoised = await denoise(hat.x, hat.sigma);
    x = eulerStep(hat.x, denoised, hat.sigma, sigmas[i + 1]!);
    onStep?.(i + 1, x);
  }
  return x;
}

/** Karras et al. 2022, algorithm 2: Euler's step, corrected by the slope at its end (Heun). */
export async function heunEDM(sampling: Sampling, churn: Churn): Promise<Float32Array> {
  const { denoise, noise, sigmas, onStep, signal } = sampling;
  let x = prepare(noise, sigmas[0]!);
  for (let i = 0; i < sigmas.length - 1; i++) {
    signal?.throwIfAborted();
    const next = sigmas[i + 1]!;
    const hat = addChurn(x, sigmas[i]!, sampling, churn);
    const denoised = await denoise(hat.x, hat.sigma);
    x = eulerStep(hat.x, denoised, hat.sigma, next);
    if (next > 0) {
      const dt = next - hat.sigma;
      const euler = x;
      const denoised_2 = await denoise(euler, next);
      x = hat.x.map((value, j) => {
        const d = (value - denoised[j]!) / hat.sigma;
        const d_2 = (euler[j]! - denoised_2[j]!) / next;
        return value + (dt * (d + d_2)) / 2;
      });
    }
    onStep?.(i + 1, x);
  }
  return x;
}

/** Ancestral sampling (Song et al., arXiv:2010.02502, in k-diffusion's form) with Euler steps. */
export async function eulerAncestral(sampling: Sampling, { eta, s_noise }: Ancestral): Promise<Float32Array> {
  const { denoise, noise, sigmas, onStep, signal } = sampling;
  let x = prepare(noise, sigmas[0]!);
  for (let i = 0; i < sigmas.length - 1; i++) {
    signal?.throwIfAborted();
    const { sigma_down, sigma_up } = ancestralStep(sigmas[i]!, sigmas[i + 1]!, eta);
    const denoised = await denoise(x, sigmas[i]!);
    x = eulerStep(x, denoised, sigmas[i]!, sigma_down);
    x = addNoise(x, s_noise * sigma_up, sampling);
    onStep?.(i + 1, x);
  }
  return x;
}

/** Ancestral sampling with DPM-Solver++(2S) steps (Lu et al., arXiv:2211.01095): a second evaluation at the geometric middle. */
export async function dpmpp2sAncestral(sampling: Sampling, { eta, s_noise }: Ancestral): Promise<Float32Array> {
  const { denoise, noise, sigmas, onStep, signal } = sampling;
  let x = prepare(noise, sigmas[0]!);
  for (let i = 0; i < sigmas.length - 1; i++) {
    signal?.throwIfAborted();
    const sigma = sigmas[i]!;
    const { sigma_down, sigma_up } = ancestralStep(sigma, sigmas[i + 1]!, eta);
    const denoised = await denoise(x, sigma);
    if (sigma_down === 0) {
      x = eulerStep(x, denoised, sigma, 0);
    } else {
      const h = Math.log(sigma / sigma_down); // t = −ln sigma
      const sigma_mid = Math.sqrt(sigma * sigma_down);
      const x_2 = mix(sigma_mid / sigma, x, -Math.expm1(-h / 2), denoised);
      const denoised_2 = await denoise(x_2, sigma_mid);
      x = mix(sigma_down / sigma, x, -Math.expm1(-h), denoised_2);
    }
    x = addNoise(x, s_noise * sigma_up, sampling);
    onStep?.(i + 1, x);
  }
  return x;
}

/** DPM-Solver++(2M) (Lu et al., arXiv:2211.01095, algorithm 2): second order from the estimate of the step before. */
export async function dpmpp2m({ denoise, noise, sigmas, onStep, signal }: Sampling): Promise<Float32Array> {
  let x = prepare(noise, sigmas[0]!);
  let old_denoised: Float32Array | undefined;
  let h_last = 0;
  for (let i = 0; i < sigmas.length - 1; i++) {
    signal?.throwIfAborted();
    const [sigma, next] = [sigmas[i]!, sigmas[i + 1]!];
    const denoised = await denoise(x, sigma);
    if (next === 0) {
      x = denoised; // the limit: h is infinite
    } else {
      const h = Math.log(sigma / next);
      const r = h_last / h;
      const D = old_denoised ? mix(1 + 1 / (2 * r), denoised, -1 / (2 * r), old_denoised) : denoised;
      x = mix(next / sigma, x, -Math.expm1(-h), D);
      old_denoised = denoised;
      h_last = h;
    }
    onStep?.(i + 1, x);
  }
  return x;
}

/**
 * Linear multistep (Adams–Bashforth) in sigma, as k-diffusion's LMS.
 * @param order how many slopes are used, ≥ 1; fewer at the beginning
 */
export async function linearMultistep(sampling: Sampling, { order }: { order: number }): Promise<Float32Array> {
  const { denoise, noise, sigmas, onStep, signal } = sampling;
  let x = prepare(noise, sigmas[0]!);
  const slopes: Float32Array[] = []; // newest first
  for (let i = 0; i < sigmas.length - 1; i++) {
    signal?.throwIfAborted();
    const denoised = await denoise(x, sigmas[i]!);
    slopes.unshift(x.map((value, j) => (value - denoised[j]!) / sigmas[i]!));
    slopes.length = Math.min(slopes.length, order);
    const coefficients = multistepCoefficients(sigmas, slopes.length, i);
    x = x.map((value, j) => slopes.reduce((sum, d, k) => sum + coefficients[k]! * d[j]!, value));
    onStep?.(i + 1, x);
  }
  return x;
}

/** The two parts of a step to `to`: down to sigma_down by the solver, up again by noise of sigma_up. With eta 0 there is no noise. */
export function ancestralStep(from: number, to: number, eta: number): { sigma_down: number; sigma_up: number } {
  const sigma_up = Math.min(to, eta * Math.sqrt((to ** 2 * (from ** 2 - to ** 2)) / from ** 2));
  return { sigma_down: Math.sqrt(to ** 2 - sigma_up ** 2), sigma_up };
}

/** Integrals over [sigma_i, sigma_i+1] of the Lagrange polynomials through the last `order` sigmas, newest first. */
export function multistepCoefficients(sigmas: readonly number[], order: number, i: number): number[] {
  const nodes = gaussLegendre(Math.ceil(order / 2)); // exact for polynomials of degree order − 1
  const [middle, half] = [(sigmas[i]! + sigmas[i + 1]!) / 2, (sigmas[i + 1]! - sigmas[i]!) / 2];
  return Array.from({ length: order }, (_, k) => {
    const lagrange = (sigma: number) => {
      let product = 1;
      for (let m = 0; m < order; m++)
        if (m !== k) product *= (sigma - sigmas[i - m]!) / (sigmas[i - k]! - sigmas[i - m]!);
      return product;
    };
    return half * nodes.reduce((sum, { node, weight }) => sum + weight * lagrange(middle + half * node), 0);
  });
}

/** Nodes and weights of the n-point Gauss–Legendre rule on [−1, 1], by Newton's method on the Legendre polynomial. */
function gaussLegendre(n: number): { node: number; weight: number }[] {
  return Array.from({ length: n }, (_, i) => {
    let node = Math.cos((Math.PI * (i + 0.75)) / (n + 0.5));
    let slope = 1;
    for (let round = 0; round < 100; round++) {
      let [p, previous] = [1, 0];
      for (let k = 1; k <= n; k++) [p, previous] = [((2 * k - 1) * node * p - (k - 1) * previous) / k, p];
      slope = (n * (node * p - previous)) / (node ** 2 - 1);
      const step = p / slope;
      node -= step;
      if (Math.abs(step) < 1e-15) break;
    }
    return { node, weight: 2 / ((1 - node ** 2) * slope ** 2) };
  });
}

/** x raised to sigma_hat = sigma·(1 + gamma) by fresh noise, where the churn's window and amount ask for it. */
function addChurn(
  x: Float32Array,
  sigma: number,
  { sigmas, randn }: Sampling,
  { s_churn, s_tmin, s_tmax, s_noise }: Churn,
) {
  const steps = sigmas.length - 1;
  const gamma = sigma >= s_tmin && sigma <= s_tmax ? Math.min(s_churn / steps, Math.SQRT2 - 1) : 0;
  if (gamma === 0) return { x, sigma };
  const sigma_hat = sigma * (1 + gamma);
  const scale = s_noise * Math.sqrt(sigma_hat ** 2 - sigma ** 2);
  const eps = randn(x.length);
  return { x: x.map((value, j) => value + scale * eps[j]!), sigma: sigma_hat };
}

/** Along the slope d = (x − D)/sigma from sigma to `to`. */
function eulerStep(x: Float32Array, denoised: Float32Array, sigma: number, to: number): Float32Array {
  const dt = to - sigma;
  return x.map((value, j) => value + dt * ((value - denoised[j]!) / sigma));
}

/** Nothing is drawn where the noise would count for nothing, as after the last step. */
function addNoise(x: Float32Array, scale: number, { randn }: Sampling): Float32Array {
  if (scale === 0) return x;
  const eps = randn(x.length);
  return x.map((value, j) => value + scale * eps[j]!);
}

/** a·x + b·y */
function mix(a: number, x: Float32Array, b: number, y: Float32Array): Float32Array {
  return x.map((value, j) => a * value + b * y[j]!);
}
