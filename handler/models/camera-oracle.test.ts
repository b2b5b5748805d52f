import { describe, expect, test } from 'vitest';
import { type Discretization, noiseLevels } from '../../core/discretization.ts';
import { type Guider, guidanceScales, withGuidance } from '../../core/guider.ts';
import type { Sampler } from '../../core/sampler-options.ts';
import { sample } from '../sampling/samplers.ts';
import { generator } from '../sampling/torch-random.ts';
import { camera, focusOf } from './camera.ts';
import type { Still } from './model.ts';

/** The camera's posterior mean is exact, so correct samplers draw from its prior. Known properties of the prior test the samplers. */
const [T, W, H] = [6, 64, 64];

const still: Still = { data: new Uint8Array(W * H * 3), width: W, height: H };
for (let y = 0; y < H; y++)
  for (let x = 0; x < W; x++) still.data.fill((x * y) / 16, (y * W + x) * 3, (y * W + x) * 3 + 3);

const churn = { s_churn: 0, s_tmin: 0, s_tmax: 999, s_noise: 1 };
const SAMPLERS: Sampler[] = [
  { sampler: 'EulerEDMSampler', ...churn },
  { sampler: 'HeunEDMSampler', ...churn },
  { sampler: 'EulerAncestralSampler', eta: 1, s_noise: 1 },
  { sampler: 'DPMPP2SAncestralSampler', eta: 1, s_noise: 1 },
  { sampler: 'DPMPP2MSampler' },
  { sampler: 'LinearMultistepSampler', order: 4 },
];
const DISCRETIZATIONS: Discretization[] = [
  { discretization: 'EDMDiscretization', sigma_min: 0.002, sigma_max: 700, rho: 7 },
  { discretization: 'LegacyDDPMDiscretization' },
];
const GUIDERS: Guider[] = [
  { guider: 'LinearPredictionGuider', min_guidance_scale: 1, max_cfg_scale: 2.5 },
  { guider: 'VanillaCFG', cfg_scale: 5 },
  { guider: 'IdentityGuider' },
];

async function latentsOf(
  seed: number,
  steps: number,
  sampler: Sampler,
  discretization: Discretization,
  guider: Guider,
) {
  const { randn } = generator(seed);
  const { signal } = new AbortController();
  const request = {
    still,
    H,
    W,
    T,
    fps: 6,
    motion_bucket_id: 127,
    cond_aug: 0.02,
    decoding_t: 14,
    steps,
    randn,
    signal,
  };
  const clip = await camera.open(request);
  const denoise = withGuidance(clip.denoise, guidanceScales(T, guider));
  const noise = randn(clip.shape.reduce((product, size) => product * size, 1));
  const latents = await sample({ denoise, noise, sigmas: noiseLevels(steps, discretization), randn }, sampler);
  return { clip, latents };
}

/** The move (zoom, x, y), from the difference of the last and the first frame's channels; its length is 1 for a clean clip. */
function moveOf(latents: Float32Array): number[] {
  const plane = (H / 8) * (W / 8);
  const mean = (t: number, c: number) =>
    latents.subarray((t * 4 + c) * plane, (t * 4 + c + 1) * plane).reduce((sum, x) => sum + x, 0) / plane;
  // The easing runs from −½ to ½; its norm over all frames is what the model divides by.
  const ease = Array.from({ length: T }, (_, t) => {
    const u = t / (T - 1);
    return 0.6 * u + 0.4 * u * u * (3 - 2 * u) - 0.5;
  });
  const norm = Math.sqrt(plane * ease.reduce((sum, e) => sum + e * e, 0));
  return [0, 1, 2].map((c) => ((mean(T - 1, c) - mean(0, c)) * norm) / 3);
}

describe('at 12 steps no noise is left', () => {
  for (const sampler of SAMPLERS) {
    for (const discretization of DISCRETIZATIONS) {
      test.each(GUIDERS)(`${sampler.sampler}, ${discretization.discretization}, $guider`, async (guider) => {
        for (const seed of [1, 2, 3]) {
          const { latents } = await latentsOf(seed, 12, sampler, discretization, guider);
          const length = Math.hypot(...moveOf(latents));
          expect(Math.abs(length - 1)).toBeLessThan(0.02);
          // Channel 3 holds nothing, and every plane is flat: what varies within one is noise.
          const plane = (H / 8) * (W / 8);
          for (let start = 0; start < latents.length; start += plane) {
            const values = latents.subarray(start, start + plane);
            expect(Math.max(...values) - Math.min(...values)).toBeLessThan(0.02);
          }
        }
      });
    }
  }
});

describe('over 600 seeds the moves follow the prior', () => {
  const expected = 1 / Math.tanh(1.5) - 1 / 1.5; // mean of ⟨theta, f⟩ under von Mises–Fisher with kappa 1.5: 0.438
  const focus = focusOf(still);
  const direction = focus.map((value) => value / Math.hypot(...focus));
  const exact = SAMPLERS.filter(({ sampler }) =>
    ['HeunEDMSampler', 'DPMPP2MSampler', 'LinearMultistepSampler'].includes(sampler),
  );

  test.each(exact)('$sampler, 25 steps', async (sampler) => {
    let sum = 0;
    for (let seed = 1; seed <= 600; seed++) {
      const { latents } = await latentsOf(seed * 7919, 25, sampler, DISCRETIZATIONS[0]!, { guider: 'IdentityGuider' });
      sum += moveOf(latents).reduce((product, value, c) => product + value * direction[c]!, 0);
    }
    expect(Math.abs(sum / 600 - expected)).toBeLessThan(0.03);
  });

  test('guidance turns the move towards the focus', async () => {
    const meanWith = async (cfg_scale: number) => {
      let sum = 0;
      for (let seed = 1; seed <= 40; seed++) {
        const { latents } = await latentsOf(seed, 12, SAMPLERS[1]!, DISCRETIZATIONS[0]!, {
          guider: 'VanillaCFG',
          cfg_scale,
        });
        sum += moveOf(latents).reduce((product, value, c) => product + value * direction[c]!, 0);
      }
      return sum / 40;
    };
    expect(await meanWith(5)).toBeGreaterThan((await meanWith(1)) + 0.2);
  });
});
