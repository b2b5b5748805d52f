/**
 * Samplers: each is its algorithm, over a denoise function and descending sigmas that end in 0. They know nothing of networks, stills
 * or jobs. Latents are Float32Array; a sampler never writes into an array that it was given. Names are those of the papers:
 * `denoised` is D(x; sigma), `d` the slope dx/dsigma = (x − D)/sigma, `h` a step in t = −ln sigma.
 */
import type { Denoise } from '../../core/guider.ts';
import type { Ancestral, Churn, Sampler } from '../../core/sampler-options.ts';

/** The input of every sampler besides its own parameters. */
export interface Sampling {
  denoise: Denoise;
  /** unit normals, from which sampling starts */
  noise: Float32Array;
  /** steps + 1 noise levels, descending, the last one 0 */
  sigmas: readonly number[];
  /** draws n unit normals */
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
    case 'LCMSampler':
      return lcm(sampling, choice);
  }
}

/** One step of a sampler: from x at noise level `sigma` to the returned x at `sigma_next`. */
type Step = (x: Float32Array, sigma: number, sigma_next: number, i: number) => Promise<Float32Array>;

/** Takes a sampler's steps, from scaled noise to the clean latents. */
async function takeSteps(sampling: Sampling, step: Step): Promise<Float32Array> {
  const { sigmas, onStep, signal } = sampling;
  let x = scaleNoise(sampling);
  for (let i = 0; i < sigmas.length - 1; i++) {
    signal?.throwIfAborted();
    x = await step(x, sigmas[i]!, sigmas[i + 1]!, i);
    onStep?.(i + 1, x);
  }
  return x;
}

/**
 * Euler's method on the probability-flow ODE, with churn: Karras et al. 2022 (arXiv:2206.00364), algorithm 2 without its second-order
 * correction. Without churn it is DDIM (arXiv:2010.02502). One evaluation a step.
 */
export const eulerEDM = (sampling: Sampling, churn: Churn) =>
  takeSteps(sampling, async (x, sigma, sigma_next, i) => {
    const { x_hat, sigma_hat } = addChurn(x, sigma, sampling, churn);
    return eulerStep(x_hat, await sampling.denoise(x_hat, sigma_hat, i), sigma_hat, sigma_next);
  });

/**
 * Heun's method with churn: Karras et al. 2022 (arXiv:2206.00364), algorithm 2. Each Euler step is corrected by the slope at its end.
 * Two evaluations a step, one in the last.
 */
export const heunEDM = (sampling: Sampling, churn: Churn) =>
  takeSteps(sampling, async (x, sigma, sigma_next, i) => {
    const { x_hat, sigma_hat } = addChurn(x, sigma, sampling, churn);
    const denoised = await sampling.denoise(x_hat, sigma_hat, i);
    const x_2 = eulerStep(x_hat, denoised, sigma_hat, sigma_next);
    if (sigma_next === 0) return x_2;
    const denoised_2 = await sampling.denoise(x_2, sigma_next, i);
    const dt = sigma_next - sigma_hat;
    return x_hat.map((value, j) => {
      const d = (value - denoised[j]!) / sigma_hat;
      const d_2 = (x_2[j]! - denoised_2[j]!) / sigma_next;
      return value + (dt * (d + d_2)) / 2;
    });
  });

/**
 * Ancestral sampling with Euler steps, in k-diffusion's form (sample_euler_ancestral): each step goes down to sigma_down, then fresh
 * noise of sigma_up is added. One evaluation a step.
 */
export const eulerAncestral = (sampling: Sampling, { eta, s_noise }: Ancestral) =>
  takeSteps(sampling, async (x, sigma, sigma_next, i) => {
    const { sigma_down, sigma_up } = ancestralStep(sigma, sigma_next, eta);
    const x_down = eulerStep(x, await sampling.denoise(x, sigma, i), sigma, sigma_down);
    return addNoise(x_down, s_noise * sigma_up, sampling);
  });

/**
 * Ancestral sampling with DPM-Solver++(2S) steps (Lu et al. 2022, arXiv:2211.01095, algorithm 1), in k-diffusion's form
 * (sample_dpmpp_2s_ancestral): a second evaluation at the geometric mean of sigma and sigma_down.
 */
export const dpmpp2sAncestral = (sampling: Sampling, { eta, s_noise }: Ancestral) =>
  takeSteps(sampling, async (x, sigma, sigma_next, i) => {
    const { sigma_down, sigma_up } = ancestralStep(sigma, sigma_next, eta);
    const denoised = await sampling.denoise(x, sigma, i);
    if (sigma_down === 0) return addNoise(eulerStep(x, denoised, sigma, 0), s_noise * sigma_up, sampling);
    const h = Math.log(sigma / sigma_down); // t = −ln sigma
    const sigma_mid = Math.sqrt(sigma * sigma_down);
    const x_2 = mix(sigma_mid / sigma, x, -Math.expm1(-h / 2), denoised);
    const denoised_2 = await sampling.denoise(x_2, sigma_mid, i);
    const x_down = mix(sigma_down / sigma, x, -Math.expm1(-h), denoised_2);
    return addNoise(x_down, s_noise * sigma_up, sampling);
  });

/**
 * DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2): second order, from this step's estimate and the one before. One
 * evaluation a step.
 */
export function dpmpp2m(sampling: Sampling): Promise<Float32Array> {
  let last: { denoised: Float32Array; h: number } | undefined;
  return takeSteps(sampling, async (x, sigma, sigma_next, i) => {
    const denoised = await sampling.denoise(x, sigma, i);
    if (sigma_next === 0) return denoised; // the limit: h is infinite
    const h = Math.log(sigma / sigma_next); // t = −ln sigma
    const r = last ? last.h / h : Infinity; // the first step is of first order
    const D = last ? mix(1 + 1 / (2 * r), denoised, -1 / (2 * r), last.denoised) : denoised;
    last = { denoised, h };
    return mix(sigma_next / sigma, x, -Math.expm1(-h), D);
  });
}

/**
 * Linear multistep (Adams–Bashforth) in sigma, as k-diffusion's sample_lms. One evaluation a step.
 * @param order how many slopes a step uses, ≥ 1; the first steps use fewer
 */
export function linearMultistep(sampling: Sampling, { order }: { order: number }): Promise<Float32Array> {
  const ds: Float32Array[] = []; // slopes, newest first
  return takeSteps(sampling, async (x, sigma, _sigma_next, i) => {
    const denoised = await sampling.denoise(x, sigma, i);
    ds.unshift(x.map((value, j) => (value - denoised[j]!) / sigma));
    ds.length = Math.min(ds.length, order);
    const coefficients = multistepCoefficients(sampling.sigmas, ds.length, i);
    return x.map((value, j) => ds.reduce((sum, d, k) => sum + coefficients[k]! * d[j]!, value));
  });
}

/**
 * Sampling of latent consistency models (Luo et al. 2023, arXiv:2310.04378), as AnimateLCM-SVD's scheduler and k-diffusion's sample_lcm:
 * each estimate gets fresh noise of the next level. One evaluation a step.
 */
export const lcm = (sampling: Sampling, { s_noise }: { s_noise: number }) =>
  takeSteps(sampling, async (x, sigma, sigma_next, i) =>
    addNoise(await sampling.denoise(x, sigma, i), s_noise * sigma_next, sampling),
  );

/** Unit noise scaled to the first noise level: sgm and diffusers use √(1 + sigma²), not sigma. */
function scaleNoise({ noise, sigmas }: Sampling): Float32Array {
  const scale = Math.sqrt(1 + sigmas[0]! ** 2);
  return noise.map((value) => value * scale);
}

/** Raises x to sigma_hat = sigma·(1 + gamma) by fresh noise, inside the churn's window [s_tmin, s_tmax]. */
function addChurn(x: Float32Array, sigma: number, sampling: Sampling, { s_churn, s_tmin, s_tmax, s_noise }: Churn) {
  const steps = sampling.sigmas.length - 1;
  const gamma = sigma >= s_tmin && sigma <= s_tmax ? Math.min(s_churn / steps, Math.SQRT2 - 1) : 0;
  if (gamma === 0) return { x_hat: x, sigma_hat: sigma };
  const sigma_hat = sigma * (1 + gamma);
  const scale = s_noise * Math.sqrt(sigma_hat ** 2 - sigma ** 2);
  const eps = sampling.randn(x.length); // drawn even for s_noise 0, as in the reference
  return { x_hat: x.map((value, j) => value + scale * eps[j]!), sigma_hat };
}

/** x + dt·d, along the slope d = (x − denoised)/sigma. */
function eulerStep(x: Float32Array, denoised: Float32Array, sigma: number, sigma_next: number): Float32Array {
  const dt = sigma_next - sigma;
  return x.map((value, j) => value + dt * ((value - denoised[j]!) / sigma));
}

/** Splits a step: down to sigma_down by the solver, then up by noise of sigma_up. With eta 0 there is no noise. */
export function ancestralStep(sigma: number, sigma_next: number, eta: number) {
  const noise = eta * Math.sqrt((sigma_next ** 2 * (sigma ** 2 - sigma_next ** 2)) / sigma ** 2);
  const sigma_up = Math.min(sigma_next, noise);
  return { sigma_down: Math.sqrt(sigma_next ** 2 - sigma_up ** 2), sigma_up };
}

/** x + scale·noise. Without `scale`, as after the last step, nothing is drawn. */
function addNoise(x: Float32Array, scale: number, { randn }: Sampling): Float32Array {
  if (scale === 0) return x;
  const eps = randn(x.length);
  return x.map((value, j) => value + scale * eps[j]!);
}

/** a·x + b·y */
const mix = (a: number, x: Float32Array, b: number, y: Float32Array): Float32Array =>
  x.map((value, j) => a * value + b * y[j]!);

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
