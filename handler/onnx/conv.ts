/** The networks' convolutions, in the formulations that onnxruntime runs fastest on a CPU (measured; ARCHITECTURE.md). */
import type { Graph } from './graph.ts';
import type { Value } from './value.ts';

interface ConvOptions {
  kernel?: number;
  stride?: number;
  /** top, left, bottom, right; half the kernel unless given */
  pads?: readonly [number, number, number, number];
}

/** [N, C, H, W] → [N, out, …]; by Winograd's filtering where that is faster */
export function conv2d(
  g: Graph,
  x: Value,
  name: string,
  out: number,
  { kernel = 3, stride = 1, pads }: ConvOptions = {},
): Value {
  const [N, C, H, W] = x.shape as [number, number, number, number];
  const [top, left, bottom, right] = pads ?? Array<number>(4).fill(kernel >> 1);
  if (kernel === 3 && stride === 1 && !pads && suitsWinograd(g, x, out)) return winogradConv(g, x, name, out);
  const size = (length: number, before: number, after: number) =>
    Math.floor((length + before + after - kernel) / stride) + 1;
  const operands = [x, g.weight(`${name}.weight`, [out, C, kernel, kernel]), g.weight(`${name}.bias`, [out])];
  return g.op('Conv', operands, [N, out, size(H, top!, bottom!), size(W, left!, right!)], {
    attributes: { kernel_shape: [kernel, kernel], strides: [stride, stride], pads: [top!, left!, bottom!, right!] },
  });
}

/** A linear layer over the channels of [N, C, H, W] → [N, out, H, W]: from about 320 channels the fastest way to multiply by a matrix. */
export function pointwise(
  g: Graph,
  x: Value,
  name: string,
  out: number,
  rows: readonly [from: number, to: number] = [0, out],
): Value {
  const C = x.shape[1]!;
  const weight = g.weight(`${name}.weight`, [out, C], { shape: [out, C, 1, 1], rows });
  return g.op('Conv', [x, weight, g.weight(`${name}.bias`, [out], { rows })], x.shape.with(1, rows[1] - rows[0]), {
    attributes: { kernel_shape: [1, 1] },
  });
}

/**
 * A convolution of three over T frames that lie one below the other: [B, C, T·H, W] → [B, out, T·H, W]. The Conv3d kernel is seen as one
 * of 3×1, dilated by a frame's rows. For a GPU, whose dilated kernels were not tried, each frame is a single row.
 */
export function temporalConv(g: Graph, x: Value, name: string, out: number, T: number): Value {
  const [B, C, height, W] = x.shape as [number, number, number, number];
  const dilation = g.policy === 'cuda' ? 1 : height / T;
  const rows = g.reshape(x, [B, C, T * dilation, (height * W) / (T * dilation)]);
  const weight = g.weight(`${name}.weight`, [out, C, 3, 1, 1], { shape: [out, C, 3, 1] });
  const y = g.op('Conv', [rows, weight, g.weight(`${name}.bias`, [out])], rows.shape.with(1, out), {
    attributes: { kernel_shape: [3, 1], dilations: [dilation, 1], pads: [dilation, 0, dilation, 0] },
  });
  return g.reshape(y, [B, out, height, W]);
}

/**
 * Nearest-neighbour upsampling and a 3×3 convolution. For a doubling on a processor they are four 2×2 convolutions, one for each corner of
 * the new pixels, whose kernels are sums of the 3×3 one's rows and columns: 2.25 times fewer multiplications.
 * @param size of the result; default: twice as high and wide
 */
export function upsampleConv(g: Graph, x: Value, name: string, size?: readonly [height: number, width: number]): Value {
  const [N, C, H, W] = x.shape as [number, number, number, number];
  const [height, width] = size ?? [2 * H, 2 * W];
  if (height !== 2 * H || width !== 2 * W || g.policy === 'cuda') {
    const attributes = { mode: 'nearest', coordinate_transformation_mode: 'asymmetric', nearest_mode: 'floor' };
    const sizes = g.integers([N, C, height, width]);
    const larger = g.op('Resize', [x, undefined, undefined, sizes], [N, C, height, width], { attributes });
    return conv2d(g, larger, name, C);
  }
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
    return g.op('Conv', [x, kernel, g.weight(`${name}.bias`, [C])], [N, C, H, W], {
      attributes: { kernel_shape: [2, 2], pads: [1 - bottom, 1 - right, bottom, right] },
    });
  });
  return interleaved(g, corners, [N, C, H, W]);
}

/** The pixels of four pictures of one shape, [N, C, H, W] in whatever shape they lie: each a corner of every 2×2 in [N, C, 2H, 2W]. */
function interleaved(
  g: Graph,
  corners: readonly Value[],
  [N, C, H, W]: readonly [number, number, number, number],
): Value {
  const [top, bottom] = [corners.slice(0, 2), corners.slice(2)].map((pair) => {
    const columns = pair.map((corner) => g.reshape(corner, [N, C * H * W, 1]));
    return g.reshape(g.concat(columns, 2), [N, C * H, 2 * W]); // DepthToSpace takes four times as long
  });
  return g.reshape(g.concat([top!, bottom!], 2), [N, C, 2 * H, 2 * W]);
}

// Winograd's minimal filtering F(2×2, 3×3) as Lavin and Gray describe it (arXiv:1509.09308), with their letters: each 2×2 of the output
// comes from a tile d, 4×4 pixels of the input, and a kernel g by Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A. Summed over the channels, the product in
// the middle is one of matrices for each of a tile's 16 places: 2.25 times fewer multiplications. Factors are 0, ±½ and ±1 only, so that
// it is nearly as precise as the convolution itself.
/** The two places in a tile's row that a row of Bᵀ takes, and their factors. */
const Bᵀ = [
  { places: [0, 2], factors: [1, -1] },
  { places: [1, 2], factors: [1, 1] },
  { places: [1, 2], factors: [-1, 1] },
  { places: [1, 3], factors: [1, -1] },
] as const;
const G = [
  [1, 0, 0],
  [0.5, 0.5, 0.5],
  [0.5, -0.5, 0.5],
  [0, 0, 1],
];
const Aᵀ = [
  [1, 1, 1, 0],
  [0, 1, -1, -1],
];
const PLACES = 16;
/** Bytes of transformed tiles at a time: little beside the network's other values, */
const TILE_BYTES = 320 * 2 ** 20;
/** and parts that this may need: onnxruntime opens a graph in the square of its size. */
const MOST_PARTS = 8;
/** Elements of a kernel that is kept transformed. */
const KEPT = 512 * 512;
/** Tiles in a picture from which pictures are multiplied one by one. */
const MANY_TILES = 128;

/** Pictures whose tiles are transformed at a time. */
const picturesAtATime = ({ shape: [, C, H, W] }: Value) =>
  Math.floor(TILE_BYTES / (4 * PLACES * C! * Math.ceil(H! / 2) * Math.ceil(W! / 2)));

/** Where it saves more than tiles' way through memory and the making of U cost, and onnxruntime's layout makes the former short. */
function suitsWinograd({ policy }: Graph, x: Value, out: number): boolean {
  const [N, C, H, W] = x.shape as [number, number, number, number];
  const saves = C * out >= 256 * 256 && N * H * W >= 96;
  return policy === 'prepacked' && saves && N <= MOST_PARTS * picturesAtATime(x);
}

/** A 3×3 convolution padded by one: [N, C, H, W] → [N, out, H, W] */
function winogradConv(g: Graph, x: Value, name: string, out: number): Value {
  const N = x.shape[0]!;
  const count = picturesAtATime(x);
  if (count >= N) return winogradPart(g, x, name, out);
  const parts: Value[] = [];
  for (let n = 0; n < N; n += count) parts.push(winogradPart(g, g.slice(x, 0, n, Math.min(n + count, N)), name, out));
  return g.concat(parts, 0);
}

function winogradPart(g: Graph, x: Value, name: string, out: number): Value {
  const [N, C, H, W] = x.shape as [number, number, number, number];
  const [h, w] = [Math.ceil(H / 2), Math.ceil(W / 2)]; // in tiles
  const asOne = N > 1 && h * w < MANY_TILES; // all pictures' tiles are multiplied at once
  const swapped = (value: Value, shape: readonly number[]) => g.transpose(g.reshape(value, shape), [1, 0, 2]);

  const V = transformedTiles(g, x, [h, w]);
  const tiles = asOne ? swapped(V, [N, PLACES * C, h * w]) : V;
  const M = winogradProduct(g, g.reshape(tiles, asOne ? [1, PLACES * C, N, h * w] : V.shape), name, out);

  // Y = Aᵀ M A: four pixels of each tile, then brought to where they belong
  const rows = g.reshape(M, [asOne ? 1 : N, PLACES, (asOne ? N : 1) * out * h * w]);
  const A = g.constant('A⊗A', Float32Array.from(outer(Aᵀ, Aᵀ).flat()), [4, PLACES]);
  const pixels = g.split(g.op('MatMul', [A, rows], rows.shape.with(1, 4)), 1, [1, 1, 1, 1]);
  const [width, height] = [2 * w, 2 * h];
  let y = asOne
    ? g.reshape(swapped(interleaved(g, pixels, [out, N, h, w]), [out, N, height * width]), [N, out, height, width])
    : interleaved(g, pixels, [N, out, h, w]);
  if (height > H) y = g.slice(y, 2, 0, H);
  if (width > W) y = g.slice(y, 3, 0, W);
  return g.add(y, g.weight(`${name}.bias`, [out], { shape: [out, 1, 1] }));
}

/**
 * V = Bᵀ d B of all tiles: [N, C, H, W] → [N, 16·C, h, w]. For each place it is a convolution of four pixels, channel by channel, which
 * stays in onnxruntime's own layout.
 */
function transformedTiles(g: Graph, x: Value, tiles: readonly [h: number, w: number]): Value {
  const [N, C, ...size] = x.shape as [number, number, number, number];
  const places = Bᵀ.flatMap((row) =>
    Bᵀ.map((column) => {
      const both = [row, column];
      const factors = outer([row.factors], [column.factors]).flat();
      const kernel = g.once(`B of ${C} ${factors}`, () => {
        const one = g.constant(`B ${factors}`, Float32Array.from(factors), [1, 1, 2, 2]);
        return g.op('Expand', [one, g.integers([C, 1, 2, 2])], [C, 1, 2, 2]);
      });
      // A tile begins a pixel before those that it gives.
      const before = both.map(({ places: [first] }) => 1 - first);
      const after = both.map(({ places: [, last] }, i) => 2 * tiles[i]! + last - 2 - size[i]!);
      return g.op('Conv', [x, kernel], [N, C, ...tiles], {
        attributes: {
          kernel_shape: [2, 2],
          strides: [2, 2],
          dilations: both.map(({ places: [first, last] }) => last - first),
          pads: [...before, ...after],
          group: C,
        },
      });
    }),
  );
  return g.concat(places, 1);
}

/**
 * M = U·V, U = G g Gᵀ being [16, out, C]: [N, 16·C, …] → [N, 16·out, …]. A small U is made once and multiplied in onnxruntime's own layout,
 * 16 groups of a 1×1 convolution. A large one is made in each run, in some milliseconds: to keep it would take 16/9 of the weights' memory,
 * and twice that while it is made.
 */
function winogradProduct(g: Graph, V: Value, name: string, out: number): Value {
  const [N, channels, height, width] = V.shape as [number, number, number, number];
  const C = channels / PLACES;
  const kernels = g.weight(`${name}.weight`, [out, C, 3, 3], { shape: [out * C, 9] });
  const factors = g.constant('G⊗G', Float32Array.from(outer(G, G).flat()), [PLACES, 9]);
  const shape = [PLACES, out * C];
  if (out * C <= KEPT) {
    const U = g.once(`U of ${name}`, () => {
      const product = g.op('Gemm', [factors, kernels], shape, { attributes: { transB: 1 } });
      return g.reshape(product, [PLACES * out, C, 1, 1]);
    });
    return g.op('Conv', [V, U], V.shape.with(1, PLACES * out), {
      attributes: { kernel_shape: [1, 1], group: PLACES },
    });
  }
  // onnxruntime takes no product of Microsoft's operators for a constant.
  const U = g.once(`U of ${name}`, () => {
    const product = g.op('FusedMatMul', [factors, kernels], shape, {
      domain: 'com.microsoft',
      attributes: { transB: 1 },
    });
    return g.reshape(product, [PLACES, out, C]);
  });
  const length = height * width;
  return g.op('MatMul', [U, g.reshape(V, [N, PLACES, C, length])], [N, PLACES, out, length]);
}

/** The Kronecker product, by rows. */
const outer = (a: readonly (readonly number[])[], b: readonly (readonly number[])[]) =>
  a.flatMap((row) => b.map((other) => row.flatMap((x) => other.map((y) => x * y))));
