/** Noise levels: the sigmas that a sampler steps through. */

/** Parameters of Karras et al. 2022 (arXiv:2206.00364), eq. 5. */
export interface EDMDiscretization {
  /** the last noise level before 0, > 0 */
  sigma_min: number;
  /** the first noise level, > sigma_min */
  sigma_max: number;
  /** how much denser the steps are at low noise, > 0 */
  rho: number;
}

/**
 * @param steps ≥ 1
 * @returns steps + 1 sigmas, descending, the last one 0 (one step: sigma_max, 0)
 */
export function edmSigmas(steps: number, { sigma_min, sigma_max, rho }: EDMDiscretization): number[] {
  const first = sigma_max ** (1 / rho);
  const last = sigma_min ** (1 / rho);
  const ramp = (i: number) => (steps > 1 ? i / (steps - 1) : 0);
  return [...Array.from({ length: steps }, (_, i) => (first + ramp(i) * (last - first)) ** rho), 0];
}
