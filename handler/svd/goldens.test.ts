import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { edmSigmas } from './discretization.ts';
import { guided, linearScales } from './guider.ts';
import { eulerEDM } from './sampler.ts';

/**
 * Numbers of Stability's own classes (testdata/README.md). State is kept in float32 here, so trajectories are held to the tolerance for
 * that: 2e-4 of the largest value, or 20 times as far as the reference itself departs in float32.
 */
const read = (name: string) =>
  JSON.parse(readFileSync(new URL(`testdata/${name}.json`, import.meta.url), 'utf8'), (_, value) =>
    value === 'Infinity' ? Number.POSITIVE_INFINITY : value,
  );

/** max|got − expected| / max|expected| */
function relativeError(got: ArrayLike<number>, expected: number[]): number {
  expect(got.length).toBe(expected.length);
  const error = Math.max(...expected.map((value, i) => Math.abs(got[i]! - value)));
  expect(error).not.toBeNaN();
  return error / Math.max(...expected.map(Math.abs));
}

interface Latents {
  /** videos in one batch, each of T frames */
  B: number;
  T: number;
  C: number;
  H: number;
  W: number;
  x0: number[];
  k: number[];
  v_cond: number[];
  v_uncond: number[];
  noise: number[][];
}

/** One branch of the reference's little network behind sgm's preconditioning: D = c_out·F(c_in·x, c_noise) + c_skip·x. */
function denoiser(network: Record<'a' | 'b' | 'c' | 'd' | 'e', number>, latents: Latents) {
  const { a, b, c, d, e } = network;
  const frame = latents.C * latents.H * latents.W;
  return async (x: Float32Array, sigma: number, conditional: boolean) => {
    const c_skip = 1 / (sigma ** 2 + 1);
    const c_in = Math.sqrt(c_skip);
    const c_out = -sigma * c_in;
    const c_noise = 0.25 * Math.log(sigma);
    const v = conditional ? latents.v_cond : latents.v_uncond;
    return x.map((value, i) => {
      const k = conditional ? latents.k[i]! : 0;
      const xin = c_in * value;
      const F = a * Math.tanh(b * xin + c * c_noise + k) + d * v[Math.floor(i / frame)]! * xin + e * k;
      return c_out * F + c_skip * value;
    });
  };
}

describe('trajectories', () => {
  const { network, latents, cases } = read('trajectories');
  for (const golden of cases) {
    if (golden.sampler !== 'EulerEDM' || golden.guider.name !== 'LinearPredictionGuider') continue;
    test(`${golden.id}: ${golden.sampler} ${JSON.stringify(golden.params)}, ${golden.n} steps`, async () => {
      const own: Latents = latents[golden.latents];
      let drawn = 0;
      const steps: Float32Array[] = [];
      await eulerEDM(
        {
          denoise: guided(denoiser(network, own), Array(own.B).fill(golden.scale).flat()),
          noise: Float32Array.from(own.x0),
          sigmas: golden.sigmas,
          randn: () => Float32Array.from(own.noise[drawn++]!),
          onStep: (_, x) => steps.push(x),
        },
        golden.params,
      );
      expect(steps).toHaveLength(golden.n);
      const error = Math.max(...steps.map((x, i) => relativeError(x, golden.traj[i])));
      expect(error).toBeLessThan(Math.max(2e-4, 20 * golden.f32_final_relerr));
      expect(drawn).toBe(golden.draws);
    });
  }
});

describe('noise levels', () => {
  for (const { name, params, n, f64, indices } of read('discretizations').cases) {
    if (name !== 'EDMDiscretization') continue;
    test(`${JSON.stringify(params)}, ${n} steps`, () => {
      const all = edmSigmas(n, params);
      expect(all).toHaveLength(n + 1);
      const got: number[] = indices ? indices.map((i: number) => all[i]) : all;
      for (const [i, sigma] of got.entries()) expect(Math.abs(sigma - f64[i])).toBeLessThanOrEqual(1e-11 * f64[i]);
    });
  }
});

describe('guidance scales', () => {
  for (const { name, params, T, scale } of read('denoiser').guiders) {
    if (name !== 'LinearPredictionGuider') continue;
    test(`${JSON.stringify(params)} over ${T} frames`, () => {
      const got = linearScales(T, { min_guidance_scale: params.min_scale, max_cfg_scale: params.max_scale });
      expect(got).toHaveLength(scale.length);
      for (const [t, value] of got.entries()) expect(value).toBeCloseTo(scale[t], 11);
    });
  }

  test('where no frame needs the unconditional branch it is not run', async () => {
    const asked: boolean[] = [];
    const denoise = guided(
      async (x, _sigma, conditional) => {
        asked.push(conditional);
        return x.map(() => (conditional ? 3 : 1));
      },
      [1, 1],
    );
    expect(await denoise(new Float32Array(4), 1)).toEqual(new Float32Array([3, 3, 3, 3]));
    expect(asked).toEqual([true]);
  });
});

test('a sampler heeds its signal between the steps', async () => {
  const controller = new AbortController();
  const reason = new Error('enough');
  const sampling = eulerEDM(
    {
      denoise: async (x) => x,
      noise: new Float32Array(4),
      sigmas: [10, 5, 1, 0],
      randn: (n) => new Float32Array(n),
      signal: controller.signal,
      onStep: () => controller.abort(reason),
    },
    { s_churn: 0, s_tmin: 0, s_tmax: 999, s_noise: 1 },
  );
  await expect(sampling).rejects.toBe(reason);
});
