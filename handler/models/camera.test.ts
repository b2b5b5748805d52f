import sharp from 'sharp';
import { beforeAll, expect, test } from 'vitest';
import { noiseLevels } from '../../core/discretization.ts';
import { guidanceScales, withGuidance } from '../../core/guider.ts';
import { presets } from '../../core/presets.ts';
import { paint } from '../../test/support/paint.ts';
import { sample } from '../sampling/samplers.ts';
import { generator } from '../sampling/torch-random.ts';
import { fitStill } from '../still/fit.ts';
import { camera, createScene, movesFor, posteriorMean, warpAt } from './camera.ts';
import { estimateDepth } from './depth.ts';
import type { ClipRequest } from './model.ts';

const RHO = 3; // camera.ts: the norm of a whole move's latents

/** A textured, coloured disc before a smooth background. */
const scene = (width: number, height: number) =>
  paint(width, height, (x, y, c) => {
    const radius = Math.hypot(x - 0.6 * width, y - 0.5 * height) / Math.min(width, height);
    if (radius > 0.3) return 60 + 40 * Math.sin(x / 40 + y / 50) + 40 * c;
    return ((x >> 2) + (y >> 2)) % 2 ? 250 - 90 * c : 120 - 40 * c;
  });

const open = ({ still = scene(128, 64), ...request }: Partial<ClipRequest> = {}) =>
  camera.open({
    ...{ still, W: still.width, H: still.height, T: 5, fps: 2, motion_bucket_id: 127 },
    ...{ steps: 12, cond_aug: 0.02, decoding_t: 14, randn: (n) => new Float32Array(n) },
    signal: new AbortController().signal,
    ...request,
  });
type Clip = Awaited<ReturnType<typeof open>>;

/** Samples as the pipeline does with the preset. */
async function draw(clip: Clip, seed: number): Promise<Float32Array> {
  const { steps, discretization, guider } = presets.camera;
  const { randn } = generator(seed);
  const denoise = withGuidance(clip.denoise, guidanceScales(clip.shape[0], guider));
  const noise = randn(clip.shape.reduce((product, size) => product * size, 1));
  const churn = { s_churn: 0, s_tmin: 0, s_tmax: 999, s_noise: 1 };
  const sigmas = noiseLevels(steps, discretization);
  return sample({ denoise, noise, sigmas, randn }, { sampler: 'EulerEDMSampler', ...churn });
}

/** The course of a move, by its definition: smoothstep. */
const course = (T: number) =>
  Array.from({ length: T }, (_, t) => (T > 1 ? 3 * (t / (T - 1)) ** 2 - 2 * (t / (T - 1)) ** 3 : 0));
const latentsOf = (theta: readonly number[], T: number) => {
  const ease = course(T);
  const norm = Math.hypot(...ease) || 1;
  return Float32Array.from({ length: 4 * T }, (_, i) => (RHO * theta[i % 4]! * ease[i >> 2]!) / norm);
};

async function decode(clip: Clip, x: Float32Array): Promise<Uint8Array[]> {
  const frames: Uint8Array[] = [];
  for await (const frame of clip.decode(x)) frames.push(frame);
  return frames;
}

const meanDifference = (a: Uint8Array, b: Uint8Array) =>
  a.reduce((sum, value, i) => sum + Math.abs(value - b[i]!), 0) / a.length;

/** A grid over the unit sphere of four dimensions: points, four numbers each, and the log of each one's share of the surface. */
const [POLAR, AZIMUTHAL] = [56, 96];
const sphere = {
  points: new Float64Array(POLAR * POLAR * AZIMUTHAL * 4),
  surface: new Float64Array(POLAR ** 2 * AZIMUTHAL),
};
beforeAll(() => {
  for (let i = 0, n = 0; i < POLAR; i++)
    for (let j = 0; j < POLAR; j++)
      for (let k = 0; k < AZIMUTHAL; k++, n++) {
        const [a, b] = [(Math.PI * (i + 0.5)) / POLAR, (Math.PI * (j + 0.5)) / POLAR];
        const c = (2 * Math.PI * k) / AZIMUTHAL;
        const [sa, sb] = [Math.sin(a), Math.sin(b)];
        sphere.points.set([Math.cos(a), sa * Math.cos(b), sa * sb * Math.cos(c), sa * sb * Math.sin(c)], 4 * n);
        sphere.surface[n] = Math.log(sa * sa * sb);
      }
});

/** The mean of theta by its definition: the sum over the whole sphere. */
function integrate(logDensity: (theta: Float64Array) => number): number[] {
  const mean = [0, 0, 0, 0];
  let total = 0;
  const logs = sphere.surface.map((surface, n) => surface + logDensity(sphere.points.subarray(4 * n, 4 * n + 4)));
  const highest = logs.reduce((most, log) => Math.max(most, log), Number.NEGATIVE_INFINITY);
  for (const [n, log] of logs.entries()) {
    const weight = Math.exp(log - highest);
    total += weight;
    for (let c = 0; c < 4; c++) mean[c]! += weight * sphere.points[4 * n + c]!;
  }
  return mean.map((value) => value / total);
}

const dot = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  a[0]! * b[0]! + a[1]! * b[1]! + a[2]! * b[2]! + a[3]! * b[3]!;

for (const sigma of [0.7, 2, 8, 700]) {
  test(`denoise at sigma ${sigma} is the posterior mean`, async () => {
    const T = 4;
    const still = scene(128, 64);
    const clip = await open({ still, T });
    const moves = movesFor(estimateDepth(still), 2);
    const noise = generator(5).randn(4 * T);
    const x = latentsOf([0.5, -0.5, 0.1, 0.7], T).map((value, i) => value + sigma * noise[i]!);
    const basis = [0, 1, 2, 3].map((c) =>
      latentsOf(
        [0, 1, 2, 3].map((other) => Number(other === c)),
        T,
      ),
    );
    const projections = basis.map((vector) => vector.reduce((sum, value, i) => sum + value * x[i]!, 0));
    for (const conditional of [true, false]) {
      const expected = integrate((theta) => {
        const prior = moves.reduce((sum, { weight, k }) => sum + weight * Math.exp(dot(k, theta)), 0); // all as concentrated
        // −|x − x0|² / 2σ², without what does not depend on theta
        return (conditional ? Math.log(prior) : 0) + dot(projections, theta) / sigma ** 2;
      });
      const denoised = await clip.denoise(x, sigma, conditional, 0);
      const worst = latentsOf(expected, T).reduce(
        (most, value, i) => Math.max(most, Math.abs(value - denoised[i]!)),
        0,
      );
      expect(worst, conditional ? 'conditional' : 'unconditional').toBeLessThan(2e-3);
      if (sigma < 1) expect(Math.hypot(...expected), 'the integral is not blind').toBeGreaterThan(0.5);
    }
  });
}

test('a mean direction’s length is I2(x)/I1(x)', () => {
  const uniform = [{ weight: 1, k: [0, 0, 0, 0] }];
  const lengthAt = (x: number) => Math.hypot(...posteriorMean([0, 0.6 * x, 0, -0.8 * x], uniform));
  expect(lengthAt(0)).toBe(0);
  expect(lengthAt(1e-6)).toBeCloseTo(0.25e-6, 12);
  // Abramowitz and Stegun, tables 9.8 and 9.11
  expect(lengthAt(1)).toBeCloseTo(0.135_747_669_8 / 0.565_159_104, 8);
  expect(lengthAt(5)).toBeCloseTo(17.505_614_97 / 24.335_642_14, 8);
  expect(lengthAt(10)).toBeCloseTo(2281.518_968 / 2670.988_304, 8);
  expect(lengthAt(50)).toBeCloseTo(2.816_430_64 / 2.903_078_59, 8);
  expect(lengthAt(20.000_001)).toBeCloseTo(lengthAt(19.999_999), 7); // the series and the asymptotic expansion meet
  expect(1 - lengthAt(1e6)).toBeCloseTo(1.5e-6, 10);
  expect(lengthAt(1e300)).toBeCloseTo(1, 12);
});

test('sampling ends at a whole move, without noise, and different for each seed', async () => {
  const clip = await open();
  expect(clip.shape).toEqual([5, 4, 1, 1]);
  const moves: number[][] = [];
  for (const seed of [0, 1, 42, 1234, 999_999_999]) {
    const x = await draw(clip, seed);
    const norm = Math.hypot(...course(5));
    const theta = [...x.subarray(16)].map((value) => (value * norm) / RHO);
    expect(Math.abs(Math.hypot(...theta) - 1)).toBeLessThan(1e-3);
    for (const [i, value] of latentsOf(theta, 5).entries()) expect(Math.abs(x[i]! - value)).toBeLessThan(0.01);
    for (const other of moves) expect(Math.hypot(...theta.map((value, c) => value - other[c]!))).toBeGreaterThan(1e-3);
    moves.push(theta);
  }
});

test('the same seed gives the same bytes', async () => {
  const [a, b] = [await open(), await open()];
  const [x, y] = [await draw(a, 7), await draw(b, 7)];
  expect(x).toEqual(y);
  expect(await decode(a, x)).toEqual(await decode(b, y));
});

test('denoise leaves its input as it was', async () => {
  const clip = await open();
  const x = generator(1).randn(20);
  const before = x.slice();
  expect(await clip.denoise(x, 2, true, 0)).toHaveLength(20);
  expect(x).toEqual(before);
});

test('the first frame is the still at any motion, and motion 0 is a still clip', async () => {
  const still = scene(128, 64);
  for (const motion_bucket_id of [0, 1, 127, 255, 512]) {
    const clip = await open({ still, motion_bucket_id });
    const frames = await decode(clip, await draw(clip, 3));
    expect(frames).toHaveLength(5);
    expect(frames[0]).toEqual(still.data);
    expect(meanDifference(frames[4]!, still.data) > 0).toBe(motion_bucket_id > 0);
    if (motion_bucket_id === 0) for (const frame of frames) expect(frame).toEqual(still.data);
  }
});

test('the last frame differs more from the first, the larger the motion bucket is', async () => {
  const still = scene(192, 128);
  for (const theta of [
    [1, 0, 0, 0],
    [-1, 0, 0, 0],
    [0, 1, 0, 0],
    [0, 0, -1, 0],
    [0, 0, 0, 1],
  ]) {
    let before = 0;
    for (const motion_bucket_id of [0, 60, 127, 255, 512]) {
      const clip = await open({ still, T: 2, fps: 0.3, motion_bucket_id });
      // A blurred picture: one of fine texture is as different at any distance.
      const last = (await decode(clip, latentsOf(theta, 2))).at(-1)!;
      const soft = (data: Uint8Array) =>
        sharp(data, { raw: { width: 192, height: 128, channels: 3 } })
          .blur(12)
          .raw()
          .toBuffer();
      const change = meanDifference(await soft(last), await soft(still.data));
      if (motion_bucket_id > 0) expect(change, `${theta} at ${motion_bucket_id}`).toBeGreaterThan(1.15 * before);
      before = change;
    }
    expect(before).toBeGreaterThan(3);
  }
});

test('a move starts and ends softly', async () => {
  const clip = await open({ T: 13, motion_bucket_id: 512 });
  const frames = await decode(clip, latentsOf([0, 1, 0, 0], 13));
  const steps = frames.slice(1).map((frame, t) => meanDifference(frame, frames[t]!));
  expect(Math.max(steps[0]!, steps[11]!)).toBeLessThan(0.7 * steps[6]!);
});

test('the channels are zoom, pan right, pan down and orbit', async () => {
  const still = paint(128, 128, (x, y, c) => (c === 0 ? 2 * x : c === 1 ? 2 * y : 0)); // a pixel’s colour is its place
  const clip = await open({ still, T: 2, fps: 0.3, motion_bucket_id: 255 });
  const at = async (theta: number[], x: number, y: number) => {
    const last = (await decode(clip, latentsOf(theta, 2))).at(-1)!;
    return [last[(y * 128 + x) * 3]! / 2, last[(y * 128 + x) * 3 + 1]! / 2] as const;
  };
  const span = async (theta: number[]) => (await at(theta, 100, 64))[0] - (await at(theta, 28, 64))[0];
  expect(await span([1, 0, 0, 0])).toBeLessThan(68); // of 72: nearer
  expect((await at([0, 1, 0, 0], 64, 64))[0]).toBeGreaterThan(66);
  expect((await at([0, -1, 0, 0], 64, 64))[0]).toBeLessThan(62);
  expect((await at([0, 0, 1, 0], 64, 50))[1]).toBeGreaterThan(52);
  expect((await at([0, 0, -1, 0], 64, 50))[1]).toBeLessThan(50);
});

test('an orbit moves near and far things against each other', () => {
  const depth = { ...estimateDepth(scene(128, 64)), subjectDepth: 0.5 };
  const warp = warpAt([0, 0, 0, 0.2], { W: 128, H: 64, depth, parallax: 1, sway: 1 });
  const still = warpAt([0, 0, 0, 0], { W: 128, H: 64, depth, parallax: 1, sway: 1 });
  expect(still).toMatchObject({ scale: 1, offset: [0, 0] });
  const place = (d: number) => 64 * warp.scale + warp.offset[0] + d * (64 * warp.depthScale + warp.depthOffset[0]);
  const middle = 63.5 + (64 - 63.5) * warp.scale;
  expect(Math.abs(place(0.5) - middle)).toBeLessThan(0.1); // the subject stays
  expect(Math.abs(place(-0.5) - middle)).toBeGreaterThan(4);
});

test('no move samples beyond the still', () => {
  const { randn } = generator(9);
  for (const [W, H] of [
    [768, 512],
    [448, 1024],
    [1024, 448],
    [64, 64],
  ] as const) {
    for (let i = 0; i < 500; i++) {
      const random = randn(12);
      const share = (n: number) => Math.min(1, Math.abs(random[n]!));
      const subject: [number, number] = [share(0), share(1)];
      const depth = { ...estimateDepth(paint(8, 8, () => 9)), subject, subjectDepth: share(2) - 0.5 };
      const length = Math.max(1, Math.hypot(...random.subarray(4, 8)));
      const whole = [4, 5, 6, 7].map((n) => (0.34 * random[n]!) / length) as [number, number, number, number];
      const warp = warpAt(whole, { W, H, depth, parallax: share(8), sway: share(8) * share(9) });
      for (const d of [-0.5, depth.subjectDepth, 0.5])
        for (const [c, size] of [W, H].entries())
          for (const p of [0, size - 1]) {
            const from = p * warp.scale + warp.offset[c]! + d * (p * warp.depthScale + warp.depthOffset[c]!);
            expect(from).toBeGreaterThan(-0.01);
            expect(from).toBeLessThan(size - 0.99);
          }
    }
  }
});

test('no move folds the picture, and upright lines hardly lean', () => {
  const [W, H] = [256, 192];
  const depth = estimateDepth(scene(W, H));
  const travel = 0.34;
  const place = (position: Parameters<typeof warpAt>[0]) => {
    const { scale, offset, depthScale, depthOffset } = warpAt(position, createScene({ W, H, depth, travel }));
    return (x: number, y: number) =>
      x * scale + offset[0] + depth.pixels[y * W + x]! * (x * depthScale + depthOffset[0]);
  };
  for (const zoom of [travel, -travel]) {
    const from = place([zoom, 0, 0, 0]);
    for (let y = 0; y < H; y += 8) for (let x = 1; x < W; x++) expect(from(x, y) - from(x - 1, y)).toBeGreaterThan(0.1);
  }
  // A depth that changes fast from top to bottom: how far an orbit shifts a row against the one above.
  const steep = { ...depth, steepest: [0.001, 0.01] as [number, number] };
  const { depthOffset } = warpAt([0, 0, 0, travel], createScene({ W, H, depth: steep, travel }));
  expect(Math.abs(0.01 * depthOffset[0])).toBeLessThan(0.061);
  expect(Math.abs(0.01 * depthOffset[0])).toBeGreaterThan(0.05);
});

test.each([
  ['a flat still', paint(128, 64, () => 127)],
  ['black', paint(64, 64, () => 0)],
  ['one column', scene(1, 64)],
  ['one row', scene(64, 1)],
  ['one pixel', scene(1, 1)],
  ['the smallest frame', scene(64, 64)],
  ['the largest frame', scene(2048, 2048)],
  ['21:9', scene(1344, 576)],
  ['9:21', scene(576, 1344)],
])('%s makes a clip', async (_, still) => {
  const clip = await open({ still, T: 2, fps: 0.3, motion_bucket_id: 512 });
  const x = await draw(clip, 1);
  expect(x.every(Number.isFinite)).toBe(true);
  const [first, last] = await decode(clip, x);
  expect(Buffer.compare(first!, still.data)).toBe(0);
  expect(last).toHaveLength(still.data.length);
  if (new Set(still.data).size === 1) expect(new Set(last).size).toBe(1);
});

test('a single frame is the still', async () => {
  const clip = await open({ T: 1, motion_bucket_id: 512 });
  expect(await decode(clip, await draw(clip, 3))).toEqual([scene(128, 64).data]);
});

test('latents far outside of any move stay within the still', async () => {
  const still = paint(96, 64, (x) => (x < 2 || x > 93 ? 255 : 100)); // the edge repeated would be a wide white bar
  const clip = await open({ still, T: 2, fps: 0.3, motion_bucket_id: 512 });
  for (const value of [1e6, -1e6]) {
    const [, last] = await decode(clip, new Float32Array(8).fill(value));
    const white = last!.reduce((sum, level) => sum + Number(level > 180), 0) / last!.length;
    expect(white).toBeLessThan(0.12);
  }
});

test('the camera follows the picture, not the bars around it', async () => {
  const { data, width, height } = scene(256, 96);
  const png = await sharp(data, { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
  const still = await fitStill(png, { W: 192, H: 192, fit: 'contain' });
  const { subject, pixels } = estimateDepth(still);
  expect(Math.abs(subject[1] - 0.5)).toBeLessThan(0.2); // bars above 0.31 and below 0.69
  expect(pixels[96 * 192 + 115]).toBeGreaterThan(pixels[10 * 192 + 96]!);
  const clip = await open({ still, T: 2, fps: 0.3 });
  expect((await decode(clip, await draw(clip, 1)))[0]).toEqual(new Uint8Array(still.data));
});
