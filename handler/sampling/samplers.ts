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
  }
}

/**
 * Euler's method on the probability-flow ODE, with churn: Karras et al. 2022 (arXiv:2206.00364), algorithm 2 without its second-order
 * correction. Without churn it is DDIM (arXiv:2010.02502). One evaluation a step.
 */
export async function eulerEDM(sampling: Sampling, churn: Churn): Promise<Float32Array> {
  const { denoise, onStep } = sampling;
  let x = scaleNoise(sampling);
  for (const { i, sigma, sigma_next } of steps(sampling)) {
    const { x_hat, sigma_hat } = addChurn(x, sigma, sampling, churn);
    const denoised = await denoise(x_hat, sigma_hat);
    x = eulerStep(x_hat, denoised, sigma_hat, sigma_next);
    onStep?.(i + 1, x);
  }
  return x;
}

/**
 * Heun's method with churn: Karras et al. 2022 (arXiv:2206.00364), algorithm 2. Each Euler step is corrected by the slope at its end.
 * Two evaluations a step, one in the last.
 */
export async function heunEDM(sampling: Sampling, churn: Churn): Promise<Float32Array> {
  const { denoise, onStep } = sampling;
  let x = scaleNoise(sampling);
  for (const { i, sigma, sigma_next } of steps(sampling)) {
    const { x_hat, sigma_hat } = addChurn(x, sigma, sampling, churn);
    const denoised = await denoise(x_hat, sigma_hat);
    x = eulerStep(x_hat, denoised, sigma_hat, sigma_next);
    if (sigma_next > 0) {
      const dt = sigma_next - sigma_hat;
      const x_2 = x;
      const denoised_2 = await denoise(x_2, sigma_next);
      x = x_hat.map((value, j) => {
        const d = (value - denoised[j]!) / sigma_hat;
        const d_2 = (x_2[j]! - denoised_2[j]!) / sigma_next;
        return value + (dt * (d + d_2)) / 2;
      });
    }
    onStep?.(i + 1, x);
  }
  return x;
}

/**
 * Ancestral sampling with Euler steps, in k-diffusion's form (sample_euler_ancestral): each step goes down to sigma_down, then fresh
 * noise of sigma_up is added. One evaluation a step.
 */
export async function eulerAncestral(sampling: Sampling, { eta, s_noise }: Ancestral): Promise<Float32Array> {
  const { denoise, onStep } = sampling;
  let x = scaleNoise(sampling);
  for (const { i, sigma, sigma_next } of steps(sampling)) {
    const { sigma_down, sigma_up } = ancestralStep(sigma, sigma_next, eta);
    const denoised = await denoise(x, sigma);
    x = eulerStep(x, denoised, sigma, sigma_down);
    x = addNoise(x, s_noise * sigma_up, sampling);
    onStep?.(i + 1, x);
  }
  return x;
}

/**
 * Ancestral sampling with DPM-Solver++(2S) steps (Lu et al. 2022, arXiv:2211.01095, algorithm 1), in k-diffusion's form
 * (sample_dpmpp_2s_ancestral): a second evaluation at the geometric mean of sigma and sigma_down.
 */
export async function dpmpp2sAncestral(sampling: Sampling, { eta, s_noise }: Ancestral): Promise<Float32Array> {
  const { denoise, onStep } = sampling;
  let x = scaleNoise(sampling);
  for (const { i, sigma, sigma_next } of steps(sampling)) {
    const { sigma_down, sigma_up } = ancestralStep(sigma, sigma_next, eta);
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

/**
 * DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2): second order, from this step's estimate and the one before. One
 * evaluation a step.
 */
export async function dpmpp2m(sampling: Sampling): Promise<Float32Array> {
  const { denoise, onStep } = sampling;
  let x = scaleNoise(sampling);
  let old_denoised: Float32Array | undefined;
  let h_last = 0;
  for (const { i, sigma, sigma_next } of steps(sampling)) {
    const denoised = await denoise(x, sigma);
    if (sigma_next === 0) {
      x = denoised; // the limit: h is infinite
    } else {
      const h = Math.log(sigma / sigma_next); // t = −ln sigma
      const r = h_last / h;
      const D = old_denoised ? mix(1 + 1 / (2 * r), denoised, -1 / (2 * r), old_denoised) : denoised;
      x = mix(sigma_next / sigma, x, -Math.expm1(-h), D);
      old_denoised = denoised;
      h_last = h;
    }
    onStep?.(i + 1, x);
  }
  return x;
}

/**
 * Linear multistep (Adams–Bashforth) in sigma, as k-diffusion's sample_lms. One evaluation a step.
 * @param order how many slopes a step uses, ≥ 1; the first steps use fewer
 */
export async function linearMultistep(sampling: Sampling, { order }: { order: number }): Promise<Float32Array> {
  const { denoise, sigmas, onStep } = sampling;
  let x = scaleNoise(sampling);
  const ds: Float32Array[] = []; // slopes, newest first
  for (const { i, sigma } of steps(sampling)) {
    const denoised = await denoise(x, sigma);
    ds.unshift(x.map((value, j) => (value - denoised[j]!) / sigma));
    ds.length = Math.min(ds.length, order);
    const coefficients = multistepCoefficients(sigmas, ds.length, i);
    x = x.map((value, j) => ds.reduce((sum, d, k) => sum + coefficients[k]! * d[j]!, value));
    onStep?.(i + 1, x);
  }
  return x;
}

/** The steps of a sampler, each from `sigma` to `sigma_next`. */
function* steps({ sigmas, signal }: Sampling) {
  for (let i = 0; i < sigmas.length - 1; i++) {
    signal?.throwIfAborted();
    yield { i, sigma: sigmas[i]!, sigma_next: sigmas[i + 1]! };
  }
}

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
