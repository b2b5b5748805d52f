/**
 * The embedded model: a virtual camera moves over the still. A true diffusion model in closed form, without weights.
 *
 * A clip's latents are x0[t,c] = RHO·theta_c·ease_t / norm for the channels zoom, pan right, pan down and orbit. theta is on the unit sphere
 * of four dimensions. Its prior is a mixture of von Mises–Fisher distributions (Mardia and Jupp, Directional Statistics, 2000,
 * section 9.3). There is one for each kind of move: sum of w_i·C(KAPPA)·exp(KAPPA·⟨move_i, theta⟩).
 *
 * Given x = x0 + sigma·noise, the posterior is a mixture of them again. Its parameters are k_i = RHO·y/sigma² + KAPPA·move_i, and its
 * weights w_i·C(KAPPA)/C(|k_i|). y_c is x's projection on channel c's unit-norm basis. So E[x0 | x] is exact. Without the condition KAPPA
 * is 0. Both branches are on one sphere, so guidance turns the move and can't saturate.
 *
 * The latents hold the camera's path, not the picture. Near things move more than far ones, by the estimate of `depth.ts`; nothing moves by
 * itself. cond_aug and decoding_t have no effect here.
 */
import { setImmediate } from 'node:timers/promises';
import { type Depth, estimateDepth } from './depth.ts';
import type { Clip, ClipRequest, Model } from './model.ts';
import { createWarp, type Warp } from './warp.ts';

const RHO = 3; // norm of a move in latent space: far above sigma_min, far below sigma_max
const KAPPA = 12; // concentration of each kind of move
const CHANNELS = 4;
const MAX_TRAVEL = 0.34; // share of the frame that a whole move covers at motion 512
const FULL_SECONDS = 3; // shorter clips move less
const MAX_STRETCH = 0.6; // of the picture, where depth changes: above 1 it would fold
const MAX_LEAN = 0.06; // of upright lines in orbits and pans: sideways by so much of their height
const PAN = [0.29, 0.2] as const; // of the travel, right and down; the rest of it is margin
const SWAY = 0.25; // of the travel: how far an orbit moves the nearest against the farthest

export const camera: Model = { check() {}, open, samplingShare: 0.01, generative: false };

async function open({ still, H, W, T, fps, motion_bucket_id }: ClipRequest): Promise<Clip> {
  const ease = easing(T);
  const norm = Math.hypot(...ease) || 1;
  const depth = estimateDepth(still);
  const moves = movesFor(depth, W / H);
  const seconds = (T - 1) / fps;
  const travel = MAX_TRAVEL * (motion_bucket_id / 512) ** 0.65 * Math.min(1, seconds / FULL_SECONDS);
  const scene = createScene({ W, H, depth, travel });

  return {
    shape: [T, CHANNELS, 1, 1],

    async denoise(x, sigma, conditional) {
      await setImmediate(); // lets progress, pings and aborts in between steps
      const y = Array.from({ length: CHANNELS }, (_, c) => {
        const projection = ease.reduce((sum, e, t) => sum + (e * x[t * CHANNELS + c]!) / norm, 0);
        return (RHO * projection) / sigma ** 2;
      });
      const theta = posteriorMean(y, conditional ? moves : UNIFORM);
      return x.map((_, i) => (RHO * theta[i % CHANNELS]! * ease[Math.floor(i / CHANNELS)]!) / norm);
    },

    async *decode(x) {
      const warp = createWarp(still, depth.pixels);
      for (let t = 0; t < T; t++) {
        const position = (c: number) => travel * Math.min(1, Math.max(-1, (x[t * CHANNELS + c]! * norm) / RHO));
        yield warp(warpAt([position(0), position(1), position(2), position(3)], scene));
      }
    },

    warnings: [],
    async close() {},
  };
}

/** The move's course over the frames, from 0 to 1, slow at both ends: the first frame is the still itself. */
function easing(T: number): number[] {
  return Array.from({ length: T }, (_, t) => {
    const u = T > 1 ? t / (T - 1) : 0;
    return u * u * (3 - 2 * u);
  });
}

/** One component of the prior: the natural parameter k of a von Mises–Fisher distribution, and its share. */
interface Move {
  weight: number;
  k: readonly number[];
}

/**
 * The kinds of moves, of which the noise draws one: push, pull, pan right and left, rise, sink, orbit both ways. Their mean is near 0, so
 * guidance prefers none. A tall picture is rather followed upwards, a wide one sideways. Orbits and pulls need depth.
 * @param aspect width/height
 */
export function movesFor({ subject: [x, y], certainty }: Pick<Depth, 'subject' | 'certainty'>, aspect: number): Move[] {
  const tall = Math.min(2, Math.max(0.5, 1 / aspect));
  const kinds: [weight: number, ...direction: number[]][] = [
    [0.18, 1, 0.3 * (2 * x - 1), 0.3 * (2 * y - 1), 0],
    [0.16 * (0.3 + 0.7 * certainty), -1, 0, 0, 0],
    [0.12 / tall, 0, 1, 0, 0],
    [0.12 / tall, 0, -1, 0, 0],
    [0.12 * tall, 0, 0, -1, 0],
    [0.08 * tall, 0, 0, 1, 0],
    [0.12 * (0.2 + 0.8 * certainty), 0, 0, 0, 1],
    [0.12 * (0.2 + 0.8 * certainty), 0, 0, 0, -1],
  ];
  const total = kinds.reduce((sum, [weight]) => sum + weight, 0);
  return kinds.map(([weight, ...direction]) => {
    const length = Math.hypot(...direction);
    return { weight: weight / total, k: direction.map((value) => (KAPPA * value) / length) };
  });
}

const UNIFORM: Move[] = [{ weight: 1, k: [0, 0, 0, 0] }];

/**
 * The mean of theta on the unit sphere of four dimensions.
 * @param y four numbers: the likelihood of theta is proportional to exp(⟨y, theta⟩)
 * @param moves the prior, a mixture; the weights sum to 1
 * @returns four numbers whose norm is below 1
 */
export function posteriorMean(y: readonly number[], moves: readonly Move[]): number[] {
  const parts = moves.map(({ weight, k }) => {
    const sum = k.map((value, c) => value + y[c]!);
    const length = Math.hypot(...sum);
    const log = Math.log(weight) - logBessel(Math.hypot(...k)) + logBessel(length);
    const contraction = length === 0 ? 0 : meanResultant(length) / length;
    return { log, mean: sum.map((value) => value * contraction) };
  });
  const highest = Math.max(...parts.map(({ log }) => log));
  const weights = parts.map(({ log }) => Math.exp(log - highest));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return y.map((_, c) => parts.reduce((sum, { mean }, i) => sum + (weights[i]! / total) * mean[c]!, 0));
}

/** log(I1(x)/x), I1 being the modified Bessel function: minus the log of the normalizer in four dimensions, up to a constant. */
function logBessel(x: number): number {
  if (x > 20) return x - 1.5 * Math.log(x) - 0.5 * Math.log(2 * Math.PI) + Math.log(hankel(1, x));
  return Math.log(besselSeries(1, x) / 2);
}

/** I2(x)/I1(x): the length of the mean direction. */
function meanResultant(x: number): number {
  if (x > 20) return hankel(2, x) / hankel(1, x);
  return ((x / 4) * besselSeries(2, x)) / (besselSeries(1, x) / 2);
}

/** I_n(x)·(2/x)^n: the sum of (x²/4)^m / (m!·(m+n)!), for n = 1 or 2 (Abramowitz and Stegun 9.6.10). */
function besselSeries(n: 1 | 2, x: number): number {
  let term = 1 / n;
  let sum = term;
  for (let m = 1; term > sum * 1e-17; m++) {
    term *= (x * x) / 4 / (m * (m + n));
    sum += term;
  }
  return sum;
}

/** I_n(x)·exp(−x)·sqrt(2πx) for large x (Abramowitz and Stegun 9.7.1). */
function hankel(n: number, x: number): number {
  let term = 1;
  let sum = 1;
  for (let m = 1; m < 12; m++) {
    term *= -(4 * n * n - (2 * m - 1) ** 2) / (m * 8 * x);
    sum += term;
  }
  return sum;
}

interface Scene {
  W: number;
  H: number;
  depth: Depth;
  /** 0–1: less where depth changes so fast that the picture would fold */
  parallax: number;
  /** 0–1: the same for sideways moves, where upright lines would lean */
  sway: number;
}

/** @param travel of a whole move, as a share of the frame */
export function createScene({ travel, ...rest }: Pick<Scene, 'W' | 'H' | 'depth'> & { travel: number }): Scene {
  const { W, H, depth } = rest;
  const [across, down] = depth.steepest.map((slope) => travel * Math.max(W, H) * slope + 1e-9) as [number, number];
  const parallax = Math.min(1, MAX_STRETCH / Math.max(across, down));
  return { ...rest, parallax, sway: Math.min(parallax, MAX_LEAN / (SWAY * down)) };
}

/**
 * How the frame samples the still when the camera is at `position`, as shares of the frame: zoom (negative: the background grows behind the
 * subject), pan right, pan down, orbit. Pans and orbits leave a margin, so that no position samples beyond the still.
 * @param position each −MAX_TRAVEL to MAX_TRAVEL, together of a norm of at most MAX_TRAVEL
 * @returns lengths in pixels
 */
export function warpAt([zoom, right, down, orbit]: readonly [number, number, number, number], scene: Scene): Warp {
  const { W, H, depth, parallax, sway } = scene;
  const [push, pull] = [Math.max(0, zoom), Math.max(0, -zoom)];
  const margin = 0.7 * Math.max(Math.abs(right), Math.abs(down)) + 0.5 * Math.abs(orbit);
  // Heads are in the upper half: more is left out below. A zoom's centre is between the middle and the subject.
  const centre = [0.5, 0.4] as const;
  const focus = [0.25 + 0.5 * depth.subject[0], 0.15 + 0.5 * depth.subject[1]] as const;
  const shrink = 0.75 * push + 0.5 * pull;
  const depthScale = parallax * (pull - push);
  const pan = [PAN[0] * right, PAN[1] * down] as const;
  const depthPan = [sway * (0.12 * right + SWAY * orbit), parallax * 0.12 * down] as const;
  const turn = [-sway * SWAY * orbit * depth.subjectDepth, 0] as const; // the subject stays
  const offset = (size: number, i: 0 | 1) => (size - 1) * (focus[i] * shrink + centre[i] * margin + pan[i] + turn[i]);
  const depthOffset = (size: number, i: 0 | 1) => (size - 1) * (depthPan[i] - focus[i] * depthScale);
  return {
    scale: 1 - shrink - margin,
    offset: [offset(W, 0), offset(H, 1)],
    depthScale,
    depthOffset: [depthOffset(W, 0), depthOffset(H, 1)],
  };
}
