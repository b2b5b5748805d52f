/** How forms present the parameters: labels, in groups. Groups and labels stand in the order in which the page shows them. */
import type { ParameterName } from './parameters.ts';

const GROUPS = {
  Source: { prompt: 'Prompt', image_url: 'URL of a picture', still_of: 'Earlier clip' },
  Size: { W: 'Width', H: 'Height', aspect_ratio: 'Aspect ratio' },
  Clip: {
    T: 'Frames',
    fps: 'Frame rate',
    motion_bucket_id: 'Motion',
    num_cols: 'Videos',
    speed: 'Speed',
    seed: 'Seed',
  },
  Picture: { fit: 'Fit', image_index: 'Which of the four pictures', cond_aug: 'Conditioning noise' },
  Advanced: {
    sampler: 'Sampler',
    steps: 'Steps',
    s_churn: 'Churn',
    s_tmin: 'Churn from sigma',
    s_tmax: 'Churn up to sigma',
    s_noise: 'Noise scale',
    eta: 'Fresh noise',
    order: 'Order',
    discretization: 'Noise levels',
    sigma_min: 'Lowest sigma',
    sigma_max: 'Highest sigma',
    rho: 'Rho',
    guider: 'Guidance',
    min_guidance_scale: 'Guidance at the first frame',
    max_cfg_scale: 'Guidance at the last frame',
    cfg_scale: 'Guidance scale',
    guidance_sigma_min: 'Guidance above sigma',
    guidance_sigma_max: 'Guidance up to sigma',
    cache_interval: 'Whole run every … steps',
    cache_depth: 'Layers of every step',
    decoding_t: 'Frames decoded at a time',
    webhook_url: 'Webhook',
  },
  /** for programs: the page has no fields for these */
  Program: { webhook_events: 'Webhook events', metadata: 'Metadata' },
} satisfies Record<string, Partial<Record<ParameterName, string>>>;

/** Values that most people choose, by their labels. */
const PRESETS: Partial<Record<ParameterName, Record<string, number>>> = {
  motion_bucket_id: { Gentle: 40, Standard: 127, Strong: 255 },
  num_cols: { 1: 1, 2: 2, 4: 4 },
};

export interface ParameterLabel {
  /** the label */
  title: string;
  'x-group': string;
  /** position in the form, from 0 */
  'x-order': number;
  /** common values by their labels */
  'x-presets'?: Record<string, number>;
}

/** The JSON Schema annotations of each parameter. */
export const PARAMETER_LABELS: Record<string, ParameterLabel> = {};
let order = 0;
for (const [group, labels] of Object.entries(GROUPS)) {
  for (const [name, title] of Object.entries(labels)) {
    const presets = PRESETS[name as ParameterName];
    PARAMETER_LABELS[name] = { title, 'x-group': group, 'x-order': order++, ...(presets && { 'x-presets': presets }) };
  }
}
