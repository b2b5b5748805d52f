import { describe, expect, test } from 'vitest';
import { type Discretization, noiseLevels } from '../../core/discretization.ts';
import { type Guider, guidanceScales, withGuidance } from '../../core/guider.ts';
import type { Sampler } from '../../core/sampler-options.ts';
import { sample } from '../sampling/samplers.ts';
import { generator } from '../sampling/torch-random.ts';
import { camera, movesFor } from './camera.ts';
import { estimateDepth } from './depth.ts';
import type { Still } from './model.ts';

/** The camera's posterior mean is exact, so correct samplers draw from its prior. Known properties of the prior test the samplers. */
const [T, W, H] = [6, 64, 64];

const still: Still = { data: new Uint8Array(W * H * 3), width: W, height: H };
for (let y = 0; y < H; y++)
  for (let x = 0; x < W; x++) still.data.fill((x * y) / 16, (y * W + x) * 3, (y * W + x) * 3 + 3);
const moves = movesFor(estimateDepth(still), W / H);

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
  { discretization: 'AlignYourStepsDiscretization' },
];
const GUIDERS: Guider[] = [
  { guider: 'LinearPredictionGuider', min_guidance_scale: 1, max_cfg_scale: 2.5 },
  { guider: 'VanillaCFG', cfg_scale: 5 },
  { guider: 'IdentityGuider' },
];

const request = { still, H, W, T, fps: 6, motion_bucket_id: 127, cond_aug: 0.02, decoding_t: 14 };
const signal = new AbortController().signal;

/** Latents of a clip, [t][c]. */
async function draw(seed: number, steps: number, sampler: Sampler, discretization: Discretization, guider: Guider) {
  const { randn } = generator(seed);
  const clip = await camera.open({ ...request, steps, randn, signal });
  const denoise = withGuidance(clip.denoise, guidanceScales(T, guider));
  const sigmas = noiseLevels(steps, discretization);
  const latents = await sample({ denoise, noise: randn(T * 4), sigmas, randn }, sampler);
  return Array.from({ length: T }, (_, t) => latents.subarray(4 * t, 4 * t + 4));
}

// The course of every move is smoothstep, from 0 to 1; the model divides by its norm, and multiplies by 3.
const ease = Array.from({ length: T }, (_, t) => 3 * (t / (T - 1)) ** 2 - 2 * (t / (T - 1)) ** 3);
const norm = Math.hypot(...ease);

/** The move (zoom, right, down, orbit), from the last frame; its length is 1 for a clean clip. */
const moveOf = (latents: Float32Array[]) => [...latents.at(-1)!].map((value) => (value * norm) / 3);

const dot = (a: readonly number[], b: readonly number[]) => a.reduce((sum, value, c) => sum + value * b[c]!, 0);

/** The kind of move that this one is nearest to. */
const kindOf = (theta: readonly number[]) => {
  const cosines = moves.map(({ k }) => dot(theta, k));
  return cosines.indexOf(Math.max(...cosines));
};

describe('at 12 steps no noise is left, nor at 25 of LinearMultistep', () => {
  for (const sampler of SAMPLERS) {
    const steps = sampler.sampler === 'LinearMultistepSampler' ? 25 : 12;
    for (const discretization of DISCRETIZATIONS) {
      test.each(GUIDERS)(`${sampler.sampler}, ${discretization.discretization}, $guider`, async (guider) => {
        for (const seed of [1, 2, 3]) {
          const latents = await draw(seed, steps, sampler, discretization, guider);
          const theta = moveOf(latents);
          expect(Math.abs(Math.hypot(...theta) - 1)).toBeLessThan(0.03);
          for (const [t, frame] of latents.entries())
            for (const [c, value] of frame.entries())
              expect(Math.abs(value - (3 * theta[c]! * ease[t]!) / norm)).toBeLessThan(0.05);
        }
      });
    }
  }
});

/** Every seed's move. */
async function drawMany(seeds: number, steps: number, sampler: Sampler, guider: Guider): Promise<number[][]> {
  const thetas: number[][] = [];
  for (let seed = 1; seed <= seeds; seed++)
    thetas.push(moveOf(await draw(seed * 7919, steps, sampler, DISCRETIZATIONS[0]!, guider)));
  return thetas;
}
const sharesOf = (thetas: number[][]) =>
  moves.map((_, kind) => thetas.filter((theta) => kindOf(theta) === kind).length / thetas.length);

describe('over 600 seeds the moves follow the prior', () => {
  const exact = SAMPLERS.filter(({ sampler }) =>
    ['HeunEDMSampler', 'DPMPP2MSampler', 'LinearMultistepSampler'].includes(sampler),
  );
  // I2(12)/I1(12): the mean of the cosine within a kind (Abramowitz and Stegun, table 9.8)
  const RESULTANT = 0.878_1;
  const expected = [0, 1, 2, 3].map((c) =>
    moves.reduce((sum, { weight, k }) => sum + (weight * RESULTANT * k[c]!) / Math.hypot(...k), 0),
  );

  test.each(exact)('$sampler, 25 steps', async (sampler) => {
    const thetas = await drawMany(600, 25, sampler, { guider: 'IdentityGuider' });
    for (const c of [0, 1, 2, 3]) {
      const mean = thetas.reduce((sum, theta) => sum + theta[c]!, 0) / thetas.length;
      expect(Math.abs(mean - expected[c]!), `channel ${c}`).toBeLessThan(0.07); // three standard errors
    }
    const cosine = thetas.reduce((sum, theta) => sum + dot(theta, moves[kindOf(theta)]!.k) / 12, 0) / thetas.length;
    expect(Math.abs(cosine - RESULTANT)).toBeLessThan(0.03); // as concentrated as the prior
    for (const [kind, share] of sharesOf(thetas).entries())
      expect(Math.abs(share - moves[kind]!.weight), `kind ${kind}`).toBeLessThan(0.05);
  });

  test.each([GUIDERS[0]!, GUIDERS[2]!])('every kind of move occurs with $guider', async (guider) => {
    const shares = sharesOf(await drawMany(300, 12, SAMPLERS[0]!, guider));
    for (const [kind, share] of shares.entries())
      expect(share, `kind ${kind}`).toBeGreaterThan(0.4 * moves[kind]!.weight);
  });

  test('strong guidance prefers the likeliest kinds, and leaves others', async () => {
    const shares = sharesOf(await drawMany(300, 12, SAMPLERS[0]!, GUIDERS[1]!));
    expect(Math.max(...shares)).toBeLessThan(0.7);
    expect(shares.filter((share) => share > 0.03).length).toBeGreaterThan(3);
  });
});
