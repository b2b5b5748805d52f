/** The samplers and the parameters that each takes; the names are sgm's, but for LCMSampler, which sgm lacks. The algorithms are in `handler/sampling/samplers.ts`. */

/** Stochasticity of Karras et al. 2022 (arXiv:2206.00364), algorithm 2. */
export interface Churn {
  /** amount of noise that is added over all steps, ≥ 0; 0 is deterministic */
  s_churn: number;
  /** noise is added only while s_tmin ≤ sigma ≤ s_tmax; both ≥ 0, s_tmax may be Infinity */
  s_tmin: number;
  s_tmax: number;
  /** scale of the noise that is added, ≥ 0; 1 is neutral */
  s_noise: number;
}

/** Stochasticity of ancestral sampling. */
export interface Ancestral {
  /** share of each step that is fresh noise, 0–1; 0 is deterministic */
  eta: number;
  /** scale of that noise, 0–1 */
  s_noise: number;
}

export type Sampler =
  | ({ sampler: 'EulerEDMSampler' | 'HeunEDMSampler' } & Churn)
  | ({ sampler: 'EulerAncestralSampler' | 'DPMPP2SAncestralSampler' } & Ancestral)
  | { sampler: 'DPMPP2MSampler' }
  /** s_noise: scale of the fresh noise, ≥ 0; 1 is neutral */
  | { sampler: 'LCMSampler'; s_noise: number }
  /** order: how many earlier slopes a step uses, ≥ 1 */
  | { sampler: 'LinearMultistepSampler'; order: number };
