/** Convolutions. */
import { conv2d } from '../layers.ts';
import type { Value } from '../value.ts';
import type { Formulations, NetworkGraph } from './types.ts';

export const resizeConv: Formulations['upsample'] = (g, x, name, [height, width]) => {
  const [N, C] = x.shape as [number, number];
  const shape = [N, C, height, width];
  const attributes = { mode: 'nearest', coordinate_transformation_mode: 'asymmetric', nearest_mode: 'floor' };
  return conv2d(g, g.op('Resize', [x, undefined, undefined, g.integers(shape)], shape, { attributes }), name, C);
};

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
