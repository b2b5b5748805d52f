import { beforeEach, expect, test, vi } from 'vitest';
import { edmSigmas } from '../../core/discretization.ts';
import { guidanceScales, withGuidance } from '../../core/guider.ts';
import { presets } from '../../core/presets.ts';
import { eulerEDM } from '../sampling/samplers.ts';
import { generator } from '../sampling/torch-random.ts';
import { camera, focusOf } from './camera.ts';
import type { ClipRequest, Still } from './model.ts';
import { resampleWindow } from './resample.ts';

vi.mock('./resample.ts', { spy: true });
const resampled = vi.mocked(resampleWindow);
beforeEach(() => {
  resampled.mockClear();
});

const RHO = 3; // camera.ts: norm of every clip's latents

function paint(width: number, height: number, value: (x: number, y: number) => number): Still {
  const data = new Uint8Array(width * height * 3);
  for (let i = 0; i < data.length; i++) {
    const pixel = Math.floor(i / 3);
    data[i] = value(pixel % width, Math.floor(pixel / width));
  }
  return { data, width, height };
}

/** Squares of 4 pixels in the part of the picture whose centre is at (cx, cy), −1 to 1 from the middle; grey elsewhere. */
const detailAt = (cx: number, cy: number, width = 128, height = 64) =>
  paint(width, height, (x, y) => {
    const near = Math.abs((2 * x) / width - 1 - cx) < 0.4 && Math.abs((2 * y) / height - 1 - cy) < 0.4;
    return near && ((x >> 2) + (y >> 2)) % 2 ? 250 : 100;
  });

const grey = paint(128, 64, () => 127);
const busy = detailAt(0.5, -0.5);

const open = (request: Partial<ClipRequest> = {}) =>
  camera.open({
    still: busy,
    W: 128,
    H: 64,
    T: 5,
    fps: 6,
    motion_bucket_id: 127,
    steps: 12,
    cond_aug: 0.02,
    decoding_t: 14,
    randn: (n) => new Float32Array(n),
    signal: new AbortController().signal,
    ...request,
  });

type Clip = Awaited<ReturnType<typeof open>>;
const sizeOf = (clip: Clip) => clip.shape.reduce((product, size) => product * size, 1);

/** As the pipeline samples: the preset's sigmas, guider and 12 steps. */
async function sample(clip: Clip, seed: number): Promise<Float32Array> {
  const { steps, discretization, guider } = presets.camera;
  const { randn } = generator(seed);
  return eulerEDM(
    {
      denoise: withGuidance(clip.denoise, guidanceScales(clip.shape[0], guider)),
      noise: randn(sizeOf(clip)),
      sigmas: edmSigmas(steps, discretization),
      randn,
    },
    { s_churn: 0, s_tmin: 0, s_tmax: 999, s_noise: 1 },
  );
}

/** Means of each frame's channels: [t][c]. */
function means(x: Float32Array, [T, C, h, w]: Clip['shape']): number[][] {
  const plane = h * w;
  const mean = (start: number) => x.subarray(start, start + plane).reduce((sum, value) => sum + value, 0) / plane;
  return Array.from({ length: T }, (_, t) => Array.from({ length: C }, (_, c) => mean((t * C + c) * plane)));
}

/** The move that latents hold: of each channel the norm over the frames, with the sign of its course. */
function moveOf(x: Float32Array, clip: Clip): number[] {
  const frames = means(x, clip.shape);
  const plane = clip.shape[2] * clip.shape[3];
  return [0, 1, 2].map((c) => {
    const norm = Math.sqrt(plane * frames.reduce((sum, frame) => sum + frame[c]! ** 2, 0)) / RHO;
    return norm * Math.sign(frames.at(-1)![c]! - frames[0]![c]!);
  });
}

async function decode(clip: Clip, x: Float32Array): Promise<Uint8Array[]> {
  const frames: Uint8Array[] = [];
  for await (const frame of clip.decode(x)) frames.push(frame);
  return frames;
}

const SEEDS = [0, 1, 42, 1234, 999_999_999];

test('the latents’ shape is frames, 4 channels and an eighth of the size', async () => {
  expect((await open({ T: 7, W: 192, H: 64 })).shape).toEqual([7, 4, 8, 24]);
});

test('sampling ends at a move on the unit sphere, without noise, and different for each seed', async () => {
  const moves: number[][] = [];
  for (const still of [busy, grey]) {
    for (const seed of SEEDS) {
      const clip = await open({ still });
      const x = await sample(clip, seed);
      const move = moveOf(x, clip);
      expect(Math.abs(Math.hypot(...move) - 1)).toBeLessThan(1e-4);
      expect(Math.abs(Math.hypot(...x) / RHO - 1), 'all of the latents is the move').toBeLessThan(1e-4);
      expect(Math.max(...means(x, clip.shape).map((frame) => Math.abs(frame[3]!)))).toBeLessThan(1e-5);
      for (const other of moves) expect(Math.hypot(...move.map((value, c) => value - other[c]!))).toBeGreaterThan(1e-3);
      moves.push(move);
    }
  }
});

test('the same seed gives the same clip', async () => {
  const clip = await open();
  expect(await sample(clip, 7)).toEqual(await sample(await open(), 7));
  expect(await decode(clip, await sample(clip, 7))).toEqual(await decode(clip, await sample(clip, 7)));
});

/** A move's latents, for three frames. The easing is symmetric, so its course is −½, 0, ½. */
function latentsOf([zoom, panX, panY]: readonly number[], plane: number): Float32Array {
  const x0 = new Float32Array(3 * 4 * plane);
  const norm = Math.sqrt(plane / 2);
  for (const [t, course] of [-0.5, 0, 0.5].entries()) {
    for (const [c, theta] of [zoom!, panX!, panY!].entries()) {
      x0.fill((RHO * theta * course) / norm, (t * 4 + c) * plane, (t * 4 + c + 1) * plane);
    }
  }
  return x0;
}

/** E[x0 | x] with x = x0 + sigma·noise, summed over the whole sphere by its definition. */
function posteriorMean(x: Float32Array, sigma: number, focus: readonly number[], plane: number): number[] {
  const [polar, azimuthal] = [240, 240];
  const points: { theta: number[]; logWeight: number }[] = [];
  for (let i = 0; i < polar; i++) {
    const inclination = (Math.PI * (i + 0.5)) / polar;
    for (let j = 0; j < azimuthal; j++) {
      const azimuth = (2 * Math.PI * j) / azimuthal;
      const theta = [
        Math.cos(inclination),
        Math.sin(inclination) * Math.cos(azimuth),
        Math.sin(inclination) * Math.sin(azimuth),
      ];
      const x0 = latentsOf(theta, plane);
      let distance = 0;
      for (let k = 0; k < x.length; k++) distance += (x[k]! - x0[k]!) ** 2;
      const prior = theta.reduce((sum, value, c) => sum + value * focus[c]!, 0);
      points.push({ theta, logWeight: Math.log(Math.sin(inclination)) + prior - distance / (2 * sigma ** 2) });
    }
  }
  const highest = points.reduce((most, { logWeight }) => Math.max(most, logWeight), Number.NEGATIVE_INFINITY);
  const mean = [0, 0, 0];
  let total = 0;
  for (const { theta, logWeight } of points) {
    const weight = Math.exp(logWeight - highest);
    total += weight;
    for (let c = 0; c < 3; c++) mean[c] = mean[c]! + weight * theta[c]!;
  }
  return mean.map((value) => value / total);
}

for (const sigma of [0.4, 1, 3, 10, 700, 10_000]) {
  test(`denoise at sigma ${sigma} is the posterior mean`, async () => {
    const [W, H] = [32, 16]; // small enough to integrate over every latent value
    const plane = (W / 8) * (H / 8);
    const still = detailAt(-0.5, 0.5);
    const clip = await open({ still, W, H, T: 3 });
    const noise = generator(5).randn(sizeOf(clip));
    const move = [2 / 3, -1 / 3, 2 / 3];
    const x = latentsOf(move, plane).map((value, i) => value + sigma * noise[i]!);
    for (const conditional of [true, false]) {
      const expected = posteriorMean(x, sigma, conditional ? focusOf(still) : [0, 0, 0], plane);
      const denoised = await clip.denoise(x, sigma, conditional);
      const x0 = latentsOf(expected, plane);
      const worst = denoised.reduce((most, value, i) => Math.max(most, Math.abs(value - x0[i]!)), 0);
      const largest = Math.max(...x0.map(Math.abs));
      expect(worst / largest, conditional ? 'conditional' : 'unconditional').toBeLessThan(1e-3);
      if (sigma <= 1) expect(Math.hypot(...expected), 'the integral is not blind').toBeGreaterThan(0.5);
    }
  });
}

test('denoise leaves its input as it was', async () => {
  const clip = await open();
  const x = generator(1).randn(sizeOf(clip));
  const before = x.slice();
  const denoised = await clip.denoise(x, 2, true);
  expect(x).toEqual(before);
  expect(denoised).toHaveLength(x.length);
});

test('without motion all frames are the still', async () => {
  const clip = await open({ motion_bucket_id: 0 });
  const frames = await decode(clip, await sample(clip, 3));
  expect(frames).toHaveLength(5);
  for (const frame of frames) expect(frame).toEqual(busy.data);
});

test('the frames differ more, the larger the motion bucket is', async () => {
  const changes: number[] = [];
  for (const motion_bucket_id of [0, 60, 127, 255]) {
    const clip = await open({ motion_bucket_id, T: 14 });
    resampled.mockClear();
    await decode(clip, await sample(clip, 3));
    const windows = resampled.mock.calls.map(([, window]) => window);
    expect(windows).toHaveLength(14);
    const centre = ({ x, y, width, height }: (typeof windows)[number]) => [x + width / 2, y + height / 2, width];
    const [first, last] = [centre(windows[0]!), centre(windows.at(-1)!)];
    changes.push(Math.hypot(...first.map((value, i) => value - last[i]!)));
  }
  expect(changes[0]).toBe(0);
  expect([...changes].sort((a, b) => a - b)).toEqual(changes);
  expect(new Set(changes).size).toBe(changes.length);
});

test('a single frame is the still at any motion', async () => {
  const clip = await open({ T: 1, motion_bucket_id: 512 });
  const x = await sample(clip, 3);
  expect(x.every(Number.isFinite)).toBe(true);
  expect(await decode(clip, x)).toEqual([busy.data]);
});

test('the window never leaves the still, keeps its aspect, and is never smaller than 0.4 of it', async () => {
  const still = detailAt(0.5, 0.5, 192, 96); // 1.5 times the frame
  const expectInside = () => {
    for (const [, { x, y, width, height }] of resampled.mock.calls) {
      for (const value of [x, y]) expect(value).toBeGreaterThanOrEqual(0);
      expect(x + width).toBeLessThanOrEqual(still.width + 1e-9);
      expect(y + height).toBeLessThanOrEqual(still.height + 1e-9);
      expect(width).toBeGreaterThanOrEqual(0.4 * still.width - 1e-9);
      expect(width / height).toBeCloseTo(2, 9);
    }
  };
  for (const fps of [1, 6, 120]) {
    for (const motion_bucket_id of [0, 127, 512]) {
      const clip = await open({ still, T: 4, fps, motion_bucket_id });
      await decode(clip, await sample(clip, 11));
      // What guidance and few steps may leave: noise, and values far outside of any move.
      for (const scale of [1, 100, -1e6]) {
        await decode(
          clip,
          generator(2)
            .randn(sizeOf(clip))
            .map((value) => value * scale),
        );
      }
      await decode(clip, new Float32Array(sizeOf(clip)).fill(1e6));
      await decode(clip, new Float32Array(sizeOf(clip)).fill(-1e6));
    }
  }
  expect(resampled).toHaveBeenCalledTimes(9 * 6 * 4);
  expectInside();
});

test('the channels of the latents are zoom in, pan right and pan down', async () => {
  const plane = (128 / 8) * (64 / 8);
  const clip = await open({ T: 3, motion_bucket_id: 255 });
  const courseOf = async (move: number[]) => {
    resampled.mockClear();
    await decode(clip, latentsOf(move, plane));
    const [first, , last] = resampled.mock.calls.map(([, { x, y, width, height }]) => ({
      width,
      x: x + width / 2,
      y: y + height / 2,
    }));
    return [first!.width - last!.width, last!.x - first!.x, last!.y - first!.y].map((value) =>
      Math.abs(value) < 1e-9 ? 0 : Math.sign(value),
    );
  };
  expect(await courseOf([1, 0, 0])).toEqual([1, 0, 0]);
  expect(await courseOf([-1, 0, 0])).toEqual([-1, 0, 0]);
  expect(await courseOf([0, 1, 0])).toEqual([0, 1, 0]);
  expect(await courseOf([0, 0, 1])).toEqual([0, 0, 1]);
  expect(await courseOf([0, -0.6, 0.8])).toEqual([0, -1, 1]);
});

test('a blank still gives blank frames and a focus without direction', async () => {
  expect(focusOf(grey)).toEqual([1.5, 0, 0]);
  const clip = await open({ still: grey, motion_bucket_id: 512 });
  const x = await sample(clip, 1);
  expect(x.every(Number.isFinite)).toBe(true);
  for (const frame of await decode(clip, x)) expect(frame.every((value) => value === 127)).toBe(true);
});

test.each([
  [-0.6, -0.6],
  [0.6, -0.6],
  [-0.6, 0.6],
  [0.6, 0.6],
])('the focus points in and towards the detail at %f, %f', (cx, cy) => {
  for (const [width, height] of [
    [128, 64],
    [64, 192],
    [640, 384], // measured on a coarser grid
  ] as const) {
    const [zoom, x, y] = focusOf(detailAt(cx, cy, width, height));
    expect(Math.hypot(zoom, x, y)).toBeCloseTo(1.5, 9);
    expect(zoom).toBeGreaterThan(0);
    expect(x / zoom / 3).toBeCloseTo(cx, 1); // the centroid of the detail
    expect(y / zoom / 3).toBeCloseTo(cy, 1);
  }
});

test('the mean move of many seeds points to the detail', async () => {
  const [W, H] = [64, 64];
  const still = detailAt(0.6, -0.6, W, H);
  const clip = await open({ still, W, H, T: 3 });
  const sum = [0, 0, 0];
  const seeds = 60;
  for (let seed = 0; seed < seeds; seed++) {
    for (const [c, value] of moveOf(await sample(clip, seed), clip).entries()) sum[c] = sum[c]! + value / seeds;
  }
  const focus = focusOf(still);
  const cosine = sum.reduce((dot, value, c) => dot + value * focus[c]!, 0) / Math.hypot(...sum) / Math.hypot(...focus);
  expect(cosine).toBeGreaterThan(0.9);
  expect(Math.hypot(...sum)).toBeGreaterThan(0.3); // without the focus it would be about 0.1
});
