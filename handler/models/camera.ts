/**
 * The embedded model: a virtual camera moves over the still. A true diffusion model in closed form, without weights.
 *
 * A clip's latents are x0[t,c,:,:] = RHO·theta_c·ease_t / norm for c = zoom, pan x, pan y (channel 3 is 0). theta is on the unit sphere with
 * the prior p(theta) ∝ exp(⟨focus, theta⟩), von Mises–Fisher (Mardia and Jupp, Directional Statistics, 2000, section 9.3). Given
 * x = x0 + sigma·noise the posterior is von Mises–Fisher again, with k = RHO·y/sigma² + focus, where y_c is x's projection on channel c's
 * unit-norm basis. So E[x0 | x] is exact: E[theta | x] = (coth|k| − 1/|k|)·k/|k|.
 * Without the condition focus is 0: both branches are on one sphere, so guidance turns the move and can't saturate.
 *
 * The latents hold the camera's path, not the picture: no parallax, no moving objects. cond_aug and decoding_t have no effect here.
 */
import { setImmediate } from 'node:timers/promises';
import type { Clip, ClipRequest, Model, Still } from './model.ts';
import { resampleWindow } from './resample.ts';

const RHO = 3; // norm of a move in latent space: far above sigma_min, far below sigma_max
const KAPPA = 1.5; // concentration of the prior: how strongly the picture's detail attracts the camera
const TRAVEL = 0.9; // share of the picture that a move covers at motion 512 in two seconds
const MAX_MARGIN = 0.6; // the largest share of the picture that a window leaves out
const CHANNELS = 4;
const MOVES = 3; // zoom, pan x, pan y

export const camera: Model = { check() {}, open, stillScale: 1.5, samplingShare: 0.15, generative: false };

async function open({ still, H, W, T, fps, motion_bucket_id }: ClipRequest): Promise<Clip> {
  const [h, w] = [H / 8, W / 8];
  const plane = h * w;
  const ease = easing(T);
  const norm = Math.sqrt(plane * ease.reduce((sum, e) => sum + e * e, 0)) || 1;
  const focus = focusOf(still);
  const margin = Math.min(MAX_MARGIN, ((motion_bucket_id / 512) * TRAVEL * (T - 1)) / fps / 2);

  const mean = (x: Float32Array, t: number, c: number) => {
    const start = (t * CHANNELS + c) * plane;
    let sum = 0;
    for (let i = start; i < start + plane; i++) sum += x[i]!;
    return sum / plane;
  };

  return {
    shape: [T, CHANNELS, h, w],

    async denoise(x, sigma, conditional) {
      await setImmediate(); // lets progress, pings and aborts in between steps
      const k = focus.map((f, c) => {
        const y = ease.reduce((sum, e, t) => sum + (e * plane * mean(x, t, c)) / norm, 0);
        return (RHO * y) / sigma ** 2 + (conditional ? f : 0);
      });
      const length = Math.hypot(...k);
      const contraction = length < 1e-3 ? 1 / 3 : (1 / Math.tanh(length) - 1 / length) / length; // 1/3: the series' first term
      const x0 = new Float32Array(x.length);
      for (let t = 0; t < T; t++) {
        for (let c = 0; c < MOVES; c++) {
          const start = (t * CHANNELS + c) * plane;
          x0.fill((RHO * contraction * k[c]! * ease[t]!) / norm, start, start + plane);
        }
      }
      return x0;
    },

    async *decode(x) {
      for (let t = 0; t < T; t++) {
        const position = (c: number) => Math.min(0.5, Math.max(-0.5, (mean(x, t, c) * norm) / RHO));
        const size = 1 - margin * (0.5 + position(0));
        const offset = (c: number) => (1 - size) * (0.5 + position(c)); // in [0, 1 − size]: the window never leaves the still
        const [width, height] = [size * still.width, size * still.height];
        const window = { x: offset(1) * still.width, y: offset(2) * still.height, width, height };
        yield resampleWindow(still, window, W, H);
      }
    },

    warnings: [],
    async close() {},
  };
}

/** The move's course over the frames, from −½ to ½: mostly even, a little slower at both ends. A single frame is in the middle. */
function easing(T: number): number[] {
  return Array.from({ length: T }, (_, t) => {
    const u = T > 1 ? t / (T - 1) : 0.5;
    return 0.6 * u + 0.4 * u * u * (3 - 2 * u) - 0.5;
  });
}

/**
 * The parameter of the prior: "push in, towards the detail". KAPPA times the unit vector along (1, 3·gx, 3·gy), (gx, gy) being the centroid
 * of the still's squared luminance gradient, each in [−1, 1] from the centre. Luminance is BT.709's.
 */
export function focusOf({ data, width, height }: Still): [zoom: number, x: number, y: number] {
  const stepX = Math.max(1, Math.round(width / 128)); // a coarse grid is enough for a centroid
  const stepY = Math.max(1, Math.round(height / 128));
  const luminance = (x: number, y: number) => {
    const i = (y * width + x) * 3;
    return 0.2126 * data[i]! + 0.7152 * data[i + 1]! + 0.0722 * data[i + 2]!;
  };
  let sum = 1e-9; // a blank still has no gradient: its centroid is the centre
  let gx = 0;
  let gy = 0;
  for (let y = stepY; y < height - stepY; y += stepY) {
    for (let x = stepX; x < width - stepX; x += stepX) {
      const dx = luminance(x + stepX, y) - luminance(x - stepX, y);
      const dy = luminance(x, y + stepY) - luminance(x, y - stepY);
      const weight = dx * dx + dy * dy;
      sum += weight;
      gx += weight * ((2 * x + 1) / width - 1);
      gy += weight * ((2 * y + 1) / height - 1);
    }
  }
  const [x, y] = [(3 * gx) / sum, (3 * gy) / sum];
  const scale = KAPPA / Math.hypot(1, x, y);
  return [scale, x * scale, y * scale];
}
