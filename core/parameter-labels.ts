/** How forms present the parameters: labels, in groups. Groups and labels stand in the order in which the page shows them. */
import type { ParameterName } from './parameters.ts';

const GROUPS = {
  Source: { prompt: 'Prompt', image_url: 'URL of a picture', still_of: 'Earlier clip' },
  Size: { W: 'Width', H: 'Height' },
  Clip: { T: 'Frames', fps: 'Frame rate', motion_bucket_id: 'Motion', num_cols: 'Videos', seed: 'Seed' },
  Picture: { fit: 'Fit', image_index: 'Which of the four pictures', cond_aug: 'Conditioning noise' },
  Sampling: {
    sampler: 'Sampler',
    steps: 'Steps',
    s_churn: 'Churn',
    s_tmin: 'Churn from sigma',
    s_tmax: 'Churn up to sigma',
    s_noise: 'Noise scale',
    eta: 'Fresh noise',
    order: 'Order',
  },
  'Noise levels': {
    discretization: 'Spacing',
    sigma_min: 'Lowest sigma',
    sigma_max: 'Highest sigma',
    rho: 'Rho',
  },
  Guidance: {
    guider: 'Guider',
    min_guidance_scale: 'Scale at the first frame',
    max_cfg_scale: 'Scale at the last frame',
    cfg_scale: 'Scale',
  },
  'Memory and webhook': { decoding_t: 'Frames decoded at a time', webhook_url: 'Webhook' },
} satisfies Record<string, Partial<Record<ParameterName, string>>>;

/** Where a slider ends, for parameters whose whole range would make it too coarse. */
const SLIDER_MAXIMUM: Partial<Record<ParameterName, number>> = { T: 50, fps: 30, motion_bucket_id: 255, num_cols: 4 };

export interface ParameterLabel {
  /** the label */
  title: string;
  'x-group': string;
  /** position in the form, from 0 */
  'x-order': number;
  'x-slider-maximum'?: number;
}

/** The JSON Schema annotations of each parameter. */
export const PARAMETER_LABELS: Record<string, ParameterLabel> = {};
let order = 0;
for (const [group, labels] of Object.entries(GROUPS)) {
  for (const [name, title] of Object.entries(labels)) {
    const end = SLIDER_MAXIMUM[name as ParameterName];
    const slider = end !== undefined && { 'x-slider-maximum': end };
    PARAMETER_LABELS[name] = { title, 'x-group': group, 'x-order': order++, ...slider };
  }
}
