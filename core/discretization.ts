/** Noise levels: the sigmas that a sampler steps through. */

/** How the noise levels are spaced. The names are sgm's, but for Align Your Steps and LCM, which sgm lacks. */
export type Discretization =
  | ({ discretization: 'EDMDiscretization' } & EDMDiscretization)
  | { discretization: 'LegacyDDPMDiscretization' | 'AlignYourStepsDiscretization' | 'LCMDiscretization' };

/** @returns steps + 1 sigmas, descending, the last one 0 */
export function noiseLevels(steps: number, choice: Discretization): number[] {
  switch (choice.discretization) {
    case 'EDMDiscretization':
      return edmSigmas(steps, choice);
    case 'LegacyDDPMDiscretization':
      return legacyDDPMSigmas(steps);
    case 'AlignYourStepsDiscretization':
      return alignYourStepsSigmas(steps);
    case 'LCMDiscretization':
      return lcmSigmas(steps);
  }
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

/** The levels that Align Your Steps (Sabour et al. 2024, arXiv:2404.14507) publishes for SVD at 10 steps. */
const ALIGN_YOUR_STEPS = [700, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002];

/**
 * Align Your Steps: the published levels at 10 steps, and for other counts their log-linear interpolation along the table's places, as
 * in the authors' guide. The last level becomes 0, as in diffusers.
 * @param steps ≥ 1
 * @returns steps + 1 sigmas, descending, the last one 0
 */
export function alignYourStepsSigmas(steps: number): number[] {
  const sigmas = Array.from({ length: steps }, (_, i) => {
    const place = (i * (ALIGN_YOUR_STEPS.length - 1)) / steps;
    const from = Math.floor(place);
    const share = place - from;
    return ALIGN_YOUR_STEPS[from]! ** (1 - share) * ALIGN_YOUR_STEPS[from + 1]! ** share;
  });
  return [...sigmas, 0];
}

/** The noise levels that AnimateLCM-SVD-xt was distilled on. */
export const LCM_LEVELS = 40;

/**
 * Evenly spaced levels of those that AnimateLCM-SVD-xt was distilled on, from the highest (G-U-N/AnimateLCM,
 * animatelcm_svd/animatelcm_scheduler.py).
 * @param steps 1 to LCM_LEVELS
 * @returns steps + 1 sigmas, descending, the last one 0
 * @throws RangeError for more steps than there are levels
 */
export function lcmSigmas(steps: number): number[] {
  if (steps > LCM_LEVELS) throw new RangeError(`at most ${LCM_LEVELS} steps, not ${steps}`);
  const levels = edmSigmas(LCM_LEVELS, { sigma_min: 0.002, sigma_max: 700, rho: 7 });
  const stride = Math.floor(LCM_LEVELS / steps);
  return [...Array.from({ length: steps }, (_, i) => levels[i * stride]!), 0];
}
