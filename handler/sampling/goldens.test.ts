import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import type { Sampler } from '../../core/sampler-options.ts';
import { scaling, vPrediction } from '../models/svd/preconditioning.ts';
import * as samplers from './samplers.ts';
import adapter from './testdata/adapter.ts';

/**
 * Compares with the golden values of the reference's classes (testdata/README.md). State is float32 here, so trajectories may differ by
 * 2e-4 of the largest value, or by 20 times the reference's own difference in float32.
 */
const read = (name: string) =>
  JSON.parse(readFileSync(new URL(`testdata/${name}.json`, import.meta.url), 'utf8'), (_, value) =>
    value === 'Infinity' ? Number.POSITIVE_INFINITY : value,
  );
const floats = (b64: string) => new Float32Array(new Uint8Array(Buffer.from(b64, 'base64')).buffer);

/** max|got − expected|, of max|expected| or of `scale` */
function error(got: ArrayLike<number>, expected: ArrayLike<number>, scale?: number): number {
  expect(got.length).toBe(expected.length);
  let worst = 0;
  let largest = 0;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(got[i]! - expected[i]!);
    worst = difference <= worst ? worst : difference; // a NaN stays
    largest = Math.max(largest, Math.abs(expected[i]!));
  }
  return worst / (scale ?? (largest || 1));
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

/** The raw network that the trajectories were made with: F = a·tanh(b·xin + c·cn + k) + d·v·xin + e·k. */
function networkOf({ a, b, c, d, e }: Record<'a' | 'b' | 'c' | 'd' | 'e', number>, latents: Latents) {
  const frame = latents.C * latents.H * latents.W;
  return (xin: ArrayLike<number>, cn: number, branch: 'cond' | 'uncond') => {
    const v = branch === 'cond' ? latents.v_cond : latents.v_uncond;
    return Array.from(xin, (x, i) => {
      const k = branch === 'cond' ? latents.k[i]! : 0;
      return a * Math.tanh(b * x + c * cn + k) + d * v[Math.floor(i / frame)]! * x + e * k;
    });
  };
}

describe.each(['trajectories', 'align-your-steps', 'guidance-interval', 'lcm'])('%s', (file) => {
  const { network, latents, cases } = read(file);
  for (const golden of cases) {
    const { sampler, params, guider, discretization, n } = golden;
    test(`${golden.id}: ${sampler} ${JSON.stringify(params)}, ${n} steps, ${discretization.name}, ${guider.name}`, async () => {
      const own: Latents = latents[golden.latents];
      let drawn = 0;
      const steps: ArrayLike<number>[] = [];
      const guided: number[] = [];
      const raw = networkOf(network, own);
      const last = await adapter.sample({
        ...{ sampler, params, guider, B: own.B, T: own.T, sigmas: golden.sigmas, x0: own.x0 },
        interval: golden.guidance_interval,
        network: (xin, cn, branch) => {
          if (branch === 'uncond') guided.push(Math.exp(4 * cn));
          return raw(xin, cn, branch);
        },
        noise: (k) => {
          drawn = k + 1;
          return own.noise[k]!;
        },
        onStep: (_, x) => steps.push(x),
      });
      expect(steps).toHaveLength(n);
      expect(last).toEqual(steps.at(-1));
      if (golden.guided_evals) expect(error(guided, golden.guided_evals)).toBeLessThan(1e-9);
      const worst = Math.max(...steps.map((x, i) => error(x, golden.traj[i])));
      expect(worst).toBeLessThan(Math.max(2e-4, 20 * golden.f32_final_relerr));
      // The reference's ancestral samplers also draw unused noise after the last step, and if eta is 0.
      const idle = /Ancestral/.test(sampler) ? (params.eta === 0 ? golden.draws : 1) : 0;
      expect(drawn).toBe(golden.draws - idle);
    });
  }
});

describe('diffusers', () => {
  for (const golden of read('diffusers').loops)
    test(`diffusers’ own loop: ${golden.n} steps, guidance up to ${golden.max_guidance_scale}`, async () => {
      const [T, C, H, W] = golden.shape;
      const own: Latents = { ...golden, B: 1, T, C, H, W };
      const { sigmas } = read('diffusers').schedules.find((schedule: { n: number }) => schedule.n === golden.n);
      const params = { min_scale: golden.min_guidance_scale, max_scale: golden.max_guidance_scale };
      const last = await adapter.sample({
        ...{
          sampler: 'EulerEDM',
          params: { s_churn: 0, s_tmin: 0, s_tmax: Infinity, s_noise: 1 },
          B: 1,
          T,
          sigmas,
          x0: own.x0,
        },
        guider:
          golden.max_guidance_scale > 1
            ? { name: 'LinearPredictionGuider', params }
            : { name: 'IdentityGuider', params: {} },
        network: networkOf(golden.network, own),
        noise: () => expect.fail('no noise is expected'),
        onStep: () => {},
      });
      expect(error(last, golden.traj.at(-1))).toBeLessThan(2e-5);
    });
});

describe('noise levels', () => {
  const cases = [...read('discretizations').cases, ...read('align-your-steps').schedules, ...read('lcm').schedules];
  for (const { name, params, n, f64, f64_derived, timesteps, indices } of cases) {
    test(`${name} ${JSON.stringify(params)}, ${n} steps`, () => {
      const all = adapter.sigmas(name, params, n);
      expect(all).toHaveLength(n + 1);
      const pick = (values: number[]): number[] => (indices ? indices.map((i: number) => values[i]) : values);
      const tolerance = f64 ? 1e-11 : 2e-7;
      for (const [i, sigma] of pick(all).entries()) {
        const expected = (f64 ?? f64_derived)[i];
        expect(Math.abs(sigma - expected)).toBeLessThanOrEqual(tolerance * expected);
      }
      if (timesteps) {
        const got = adapter.legacyTimesteps(params, n);
        expect(indices ? indices.map((i: number) => (i < n ? got[i] : -1)) : got).toEqual(timesteps);
      }
    });
  }

  test('the schedules of training refuse more steps than they have levels', () => {
    expect(() => adapter.sigmas('LegacyDDPMDiscretization', {}, 1001)).toThrow(/at most 1000 steps/);
    expect(() => adapter.sigmas('LCMDiscretization', {}, 41)).toThrow(/at most 40 steps/);
  });
});

describe('the denoiser', () => {
  const goldens = read('denoiser');

  test('scales as sgm does', () => {
    for (const [i, sigma] of goldens.scaling.sigma.entries()) {
      for (const [name, value] of Object.entries(scaling(sigma))) {
        const expected = goldens.scaling.f64[name][i];
        expect(Math.abs(value - expected)).toBeLessThanOrEqual(1e-11 * Math.abs(expected));
      }
    }
  });

  test('returns the reference’s denoised latents', async () => {
    for (const { sigma, shape, x, k, v, denoised } of goldens.full) {
      const [frames, C, H, W] = shape;
      expect(x).toHaveLength(frames * C * H * W);
      const raw = networkOf(goldens.network, { C, H, W, k, v_cond: Array(frames).fill(v) } as Latents);
      const denoise = vPrediction(async (xin, cn) => Float32Array.from(raw(xin, cn, 'cond')));
      expect(error(await denoise(Float32Array.from(x), sigma, true, 0), denoised)).toBeLessThan(1e-6);
    }
  });

  for (const { name, params, B, T, scale, x_uncond, x_cond, out } of goldens.guiders) {
    if (name === 'TrianglePredictionGuider') continue; // not supported
    test(`${name} ${JSON.stringify(params)} over ${T} frames`, async () => {
      const got = adapter.guidanceScale(name, params, T);
      if (scale === null) expect(got).toBeNull();
      else expect(error(got!, scale)).toBeLessThan(1e-11);
      expect(error(await adapter.guide({ name, params, B, T, uncond: x_uncond, cond: x_cond }), out)).toBeLessThan(
        1e-6,
      );
    });
  }

  test('ancestral steps and multistep coefficients equal the reference’s', () => {
    for (const { sigma_from, sigma_to, eta, sigma_down, sigma_up } of goldens.ancestral) {
      const got = samplers.ancestralStep(sigma_from, sigma_to, eta);
      expect(error([got.sigma_down, got.sigma_up], [sigma_down, sigma_up], sigma_to || 1)).toBeLessThan(1e-8);
    }
    for (const { sigmas, order, i, coeffs } of goldens.lms) {
      expect(error(adapter.lmsCoeffs(sigmas, order, i), coeffs)).toBeLessThan(1e-9);
    }
  });
});

describe('conditioning', () => {
  const goldens = read('diffusers');
  test('added time ids and embeddings equal diffusers’', () => {
    for (const { added_time_ids, dtype, ...parameters } of goldens.added_time_ids) {
      expect(error(adapter.addedTimeIds(parameters), added_time_ids[0])).toBeLessThan(
        dtype === 'float16' ? 1e-3 : 1e-6,
      );
    }
    for (const { value, dim, emb } of goldens.embeddings) {
      expect(error(adapter.timestepEmbedding(value, dim), emb, 1)).toBeLessThan(2e-5);
    }
  });

  test('the schedule equals diffusers’ up to float32', () => {
    for (const { n, sigmas, timesteps, init_noise_sigma } of goldens.schedules) {
      const got = adapter.diffusersSchedule(n, goldens.scheduler_config);
      for (const [i, sigma] of got.sigmas.entries())
        expect(Math.abs(sigma - sigmas[i])).toBeLessThanOrEqual(2e-6 * sigmas[i]);
      expect(error(got.timesteps, timesteps)).toBeLessThan(2e-6);
      expect(Math.abs(got.init_noise_sigma / init_noise_sigma - 1)).toBeLessThan(2e-6);
    }
  });

  for (const golden of read('images').clip_resize) {
    const { width, height } = golden;
    test(`CLIP’s ${width}×${height} picture equals diffusers’`, () => {
      const data = new Uint8Array(width * height * 3);
      for (let y = 0, i = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          for (let c = 0; c < 3; c++) {
            data[i++] = x * (c + 3) + y * (7 - 2 * c) + ((x * y) >> 4) * (c + 1) + 120 * (((x >> 4) ^ (y >> 4)) & 1);
          }
        }
      }
      const out = adapter.resizeClip({ width, height, data });
      const at = (c: number, y: number, x: number) => out[(c * 224 + y) * 224 + x]!;
      const line = (value: (c: number, i: number) => number) =>
        [0, 1, 2].flatMap((c) => Array.from({ length: 224 }, (_, i) => value(c, i)));
      const grid: number[] = golden.grid;
      const places: [number[], string][] = [
        [[0, 1, 2].flatMap((c) => grid.flatMap((y) => grid.map((x) => at(c, y, x)))), golden.grid_b64],
        [line((c, i) => at(c, 0, i)), golden.row0_b64],
        [line((c, i) => at(c, 223, i)), golden.row223_b64],
        [line((c, i) => at(c, i, 0)), golden.col0_b64],
        [line((c, i) => at(c, i, 223)), golden.col223_b64],
      ];
      for (const [got, b64] of places) expect(error(got, floats(b64), 1)).toBeLessThan(1e-4);
    });
  }
});

describe('every sampler', () => {
  const calm = { s_churn: 0, s_tmin: 0, s_tmax: 999, s_noise: 1 };
  const all: Sampler[] = [
    { sampler: 'EulerEDMSampler', ...calm },
    { sampler: 'HeunEDMSampler', ...calm },
    { sampler: 'EulerAncestralSampler', eta: 1, s_noise: 1 },
    { sampler: 'DPMPP2SAncestralSampler', eta: 0, s_noise: 1 },
    { sampler: 'DPMPP2MSampler' },
    { sampler: 'LinearMultistepSampler', order: 7 },
    { sampler: 'LCMSampler', s_noise: 1 },
  ];
  const sampling = (more: Partial<samplers.Sampling> = {}): samplers.Sampling => ({
    denoise: async (x) => x.map(() => 0.5),
    noise: new Float32Array([1, -1, 0.3]),
    sigmas: [700, 20, 1, 0.002, 0],
    randn: (n) => new Float32Array(n).fill(0.1),
    ...more,
  });

  test.each(all)('$sampler ends at the denoiser’s estimate, even in one step', async (choice) => {
    for (const sigmas of [
      [700, 20, 1, 0.002, 0],
      [14.6, 0],
    ]) {
      const x = await samplers.sample(sampling({ sigmas }), choice);
      for (const value of x)
        expect(Math.abs(value - 0.5)).toBeLessThan(choice.sampler === 'LinearMultistepSampler' ? 0.5 : 1e-4);
    }
  });

  test.each(all)('$sampler does not modify its inputs, and stops when its signal aborts', async (choice) => {
    const noise = new Float32Array([1, -1, 0.3]);
    const seen: Float32Array[] = [];
    await samplers.sample(sampling({ noise, onStep: (_, x) => seen.push(x.slice()) && seen.push(x) }), choice);
    expect(noise).toEqual(new Float32Array([1, -1, 0.3]));
    for (let i = 0; i < seen.length; i += 2) expect(seen[i + 1]).toEqual(seen[i]);

    const controller = new AbortController();
    const reason = new Error('enough');
    const stopped = samplers.sample(
      sampling({ signal: controller.signal, onStep: () => controller.abort(reason) }),
      choice,
    );
    await expect(stopped).rejects.toBe(reason);
  });
});
