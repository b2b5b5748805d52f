/** The samplers and the parameters that each takes. The algorithms are in `handler/sampling/samplers.ts`. */

/** Stochasticity of Karras et al. 2022, algorithm 2: each ≥ 0, s_tmax may be Infinity. */
export interface Churn {
  s_churn: number;
  s_tmin: number;
  s_tmax: number;
  s_noise: number;
}

/** Stochasticity of ancestral sampling: each 0–1. */
export interface Ancestral {
  eta: number;
  s_noise: number;
}

/** A sampler and its own parameters; the names are sgm's. */
export type Sampler =
  | ({ sampler: 'EulerEDMSampler' | 'HeunEDMSampler' } & Churn)
  | ({ sampler: 'EulerAncestralSampler' | 'DPMPP2SAncestralSampler' } & Ancestral)
  | { sampler: 'DPMPP2MSampler' }
  | { sampler: 'LinearMultistepSampler'; order: number };
