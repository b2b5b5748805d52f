/** The numbers that SVD's UNet is conditioned on. */
import type { ClipRequest } from '../model.ts';

/** SVD's `added_time_ids`: it was trained on fps − 1. */
export const addedTimeIds = ({
  fps,
  motion_bucket_id,
  cond_aug,
}: Pick<ClipRequest, 'fps' | 'motion_bucket_id' | 'cond_aug'>) => [fps - 1, motion_bucket_id, cond_aug] as const;

/**
 * Sinusoidal embedding of one number (Vaswani et al., arXiv:1706.03762; diffusers' `Timesteps` with flip_sin_to_cos).
 * @param dim even
 * @returns dim values: cosines, then sines
 */
export function timestepEmbedding(value: number, dim: number): Float32Array {
  const half = dim / 2;
  const out = new Float32Array(dim);
  for (let i = 0; i < half; i++) {
    // Rounded to float32 where torch rounds: at angles above 100 the difference shows.
    const frequency = f32(Math.exp(f32(f32(-Math.log(10_000) * i) / half)));
    const angle = f32(f32(value) * frequency);
    out[i] = Math.cos(angle);
    out[half + i] = Math.sin(angle);
  }
  return out;
}

const f32 = Math.fround;
