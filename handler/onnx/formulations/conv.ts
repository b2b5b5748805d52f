/** Convolutions. */
import { conv2d } from '../layers.ts';
import type { Value } from '../value.ts';
import type { Formulations, NetworkGraph } from './types.ts';

export const resizeConv: Formulations['upsample'] = (g, x, name, size) =>
  conv2d(g, g.resize(x, size), name, x.shape[1]!);

/**
 * A doubling as four 2×2 convolutions, one for each corner of the new pixels, whose kernels are sums of the 3×3 one's rows and columns: 2.25
 * times fewer multiplications. Other sizes are resized.
 */
export const cornerConvs: Formulations['upsample'] = (g, x, name, size) => {
  const [N, C, H, W] = x.shape as [number, number, number, number];
  if (size[0] !== 2 * H || size[1] !== 2 * W) return resizeConv(g, x, name, size);
  /** The first of three rows and the sum of the others, or the first two's sum and the last. */
  const merged = (kernel: Value, axis: number, last: boolean) => {
    const [a, b, c] = g.split(kernel, axis, [1, 1, 1]) as [Value, Value, Value];
    return g.concat(last ? [g.add(a, b), c] : [a, g.add(b, c)], axis);
  };
  const corners = [0, 1, 2, 3].map((corner) => {
    const [bottom, right] = [corner >> 1, corner & 1];
    const kernel = g.once(`corner ${corner} of ${name}`, () =>
      merged(merged(g.weight(`${name}.weight`, [C, C, 3, 3]), 2, bottom === 1), 3, right === 1),
    );
    return g.conv(x, kernel, g.weight(`${name}.bias`, [C]), { pads: [1 - bottom, 1 - right, bottom, right] });
  });
  return interleave(g, corners, [N, C, H, W]);
};

/**
 * Interleaves four pictures of N·C·H·W values each: they become the top left, top right, bottom left and bottom right pixel of every 2×2
 * pixels. @returns [N, C, 2H, 2W]
 */
export function interleave(g: NetworkGraph, corners: readonly Value[], [N, C, H, W]: [number, number, number, number]) {
  const [top, bottom] = [corners.slice(0, 2), corners.slice(2)].map((pair) => {
    const columns = pair.map((corner) => g.reshape(corner, [N, C * H * W, 1]));
    return g.reshape(g.concat(columns, 2), [N, C * H, 2 * W]); // DepthToSpace takes four times as long
  });
  return g.reshape(g.concat([top!, bottom!], 2), [N, C, 2 * H, 2 * W]);
}

/**
 * A Conv3d of kernel 3×1×1 as a two-dimensional convolution. Each frame is laid out as `rows` rows, so the previous and the next frame's
 * value of the same place are `rows` rows above and below: a 3×1 kernel dilated by `rows` reads them. [B, C, T·H, W] → [B, out, T·H, W]
 */
function overRows(g: NetworkGraph, x: Value, name: string, out: number, T: number, rows: number): Value {
  const [B, C, height, W] = x.shape as [number, number, number, number];
  const picture = g.reshape(x, [B, C, T * rows, (height * W) / (T * rows)]);
  const kernel = g.weight(`${name}.weight`, [out, C, 3, 1, 1], { shape: [out, C, 3, 1] });
  const attributes = { dilations: [rows, 1], pads: [rows, 0, rows, 0] };
  return g.reshape(g.conv(picture, kernel, g.weight(`${name}.bias`, [out]), attributes), [B, out, height, W]);
}

export const dilatedConv: Formulations['temporalConv'] = (g, x, name, out, T) =>
  overRows(g, x, name, out, T, x.shape[2]! / T);

/** For a GPU, whose dilated kernels were not tried: each frame is a single row. */
export const flatConv: Formulations['temporalConv'] = (g, x, name, out, T) => overRows(g, x, name, out, T, 1);

/**
 * Of a video as frames: a 1×1 convolution of each frame's channels, those of the frame before first and those of the frame after last.
 * [B·T, C, H, W] → [B·T, out, H, W]
 */
export const neighboursConv: Formulations['temporalConv'] = (g, frames, name, out, T) => {
  const [N, C] = frames.shape as [number, number];
  const nothing = g.mul(g.slice(frames, 0, 0, 1), g.constant('zero', Float32Array.of(0), [1])); // divided like a frame
  /** The frames that come `step` earlier or later in their video, nothing where there is none. */
  const shifted = (step: -1 | 1) => {
    const videos = Array.from({ length: N / T }, (_, b) => {
      const kept = T > 1 ? [g.slice(frames, 0, b * T + Math.max(0, step), (b + 1) * T + Math.min(0, step))] : [];
      return step < 0 ? [nothing, ...kept] : [...kept, nothing];
    });
    return g.concat(videos.flat(), 0);
  };
  const stored = g.weight(`${name}.weight`, [out, C, 3, 1, 1], { shape: [out, C, 3] });
  const kernel = g.once(`neighbours ${name}`, () => g.reshape(g.transpose(stored, [0, 2, 1]), [out, 3 * C, 1, 1]));
  return g.conv(g.concat([shifted(-1), frames, shifted(1)], 1), kernel, g.weight(`${name}.bias`, [out]));
};
