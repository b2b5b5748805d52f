/** Noise levels: the sigmas that a sampler steps through. */

/** How the noise levels are spaced; the names are sgm's. */
export type Discretization =
  | ({ discretization: 'EDMDiscretization' } & EDMDiscretization)
  | { discretization: 'LegacyDDPMDiscretization' };

/** @returns steps + 1 sigmas, descending, the last one 0 */
export function noiseLevels(steps: number, choice: Discretization): number[] {
  return choice.discretization === 'EDMDiscretization' ? edmSigmas(steps, choice) : legacyDDPMSigmas(steps);
}

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

/** The schedule of the DDPM that Stable Diffusion was trained with (sgm's LegacyDDPMDiscretization). */
export interface LegacyDDPMDiscretization {
  /** default 0.00085 */
  linear_start?: number;
  /** default 0.012 */
  linear_end?: number;
  /** default 1000 */
  num_timesteps?: number;
}

/**
 * @param steps 1 to num_timesteps
 * @returns steps + 1 sigmas, descending, the last one 0; the last before it is large for few steps
 * @throws RangeError for more steps than the schedule has
 */
export function legacyDDPMSigmas(steps: number, options: LegacyDDPMDiscretization = {}): number[] {
  const { linear_start = 0.00085, linear_end = 0.012, num_timesteps = 1000 } = options;
  const first = Math.sqrt(linear_start);
  const slope = (Math.sqrt(linear_end) - first) / (num_timesteps - 1);
  const sigmas: number[] = []; // of every timestep, ascending
  let alphas_cumprod = 1;
  for (let t = 0; t < num_timesteps; t++) {
    alphas_cumprod *= 1 - (first + slope * t) ** 2;
    sigmas.push(Math.sqrt((1 - alphas_cumprod) / alphas_cumprod));
  }
  return [...legacyTimesteps(steps, num_timesteps).map((t) => sigmas[t]!), 0];
}

/** The timesteps of the schedule that are used, descending: always the last, and 0 only if all are used. */
export function legacyTimesteps(steps: number, num_timesteps = 1000): number[] {
  if (steps > num_timesteps) throw new RangeError(`at most ${num_timesteps} steps, not ${steps}`);
  const last = num_timesteps - 1;
  if (steps === num_timesteps) return Array.from({ length: steps }, (_, i) => last - i);
  return Array.from({ length: steps }, (_, i) => Math.trunc(i * (-last / steps) + last));
}
