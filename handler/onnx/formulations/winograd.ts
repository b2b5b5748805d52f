/**
 * Winograd's minimal filtering F(2×2, 3×3) as Lavin and Gray describe it (arXiv:1509.09308), with their letters. Each 2×2 of the output
 * comes from a tile d, 4×4 pixels of the input, and a kernel g by Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A. Summed over the channels, the product in the
 * middle is one of matrices for each of a tile's 16 places: 2.25 times fewer multiplications. Factors are 0, ±½ and ±1 only, so it is nearly
 * as precise as the convolution itself.
 */
import { plainConv } from '../layers.ts';
import type { Value } from '../value.ts';
import { interleave } from './conv.ts';
import type { Formulations, NetworkGraph } from './types.ts';

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
/** Elements of the smallest kernel, and rows of the smallest product, that Winograd makes faster. */
const MIN_KERNEL = 256 * 256;
const MIN_PIXELS = 96;
/** Bytes of transformed tiles at a time: little compared with the network's other values. */
const TILE_BYTES = 320 * 2 ** 20;
/** The most parts that this may need: onnxruntime opens a graph in the square of its size. */
const MAX_PARTS = 8;
/** Elements of the largest kernel that is kept transformed. */
const MAX_KEPT = 512 * 512;
/** Tiles in a picture from which pictures are multiplied one by one. */
const MANY_TILES = 128;

/** For weights that are in memory in onnxruntime's own layout, which makes the way of the tiles through memory short. */
export const winogradWhereFaster: Formulations['conv3x3'] = (g, x, name, out) => {
  const [N, C, H, W] = x.shape as [number, number, number, number];
  const pictures = Math.floor(TILE_BYTES / (4 * PLACES * C * Math.ceil(H / 2) * Math.ceil(W / 2))); // at a time
  if (C * out < MIN_KERNEL || N * H * W < MIN_PIXELS || N > MAX_PARTS * pictures) return plainConv(g, x, name, out);
  if (pictures >= N) return winogradConv(g, x, name, out);
  const parts: Value[] = [];
  for (let n = 0; n < N; n += pictures)
    parts.push(winogradConv(g, g.slice(x, 0, n, Math.min(n + pictures, N)), name, out));
  return g.concat(parts, 0);
};

function winogradConv(g: NetworkGraph, x: Value, name: string, out: number): Value {
  const [N, C, H, W] = x.shape as [number, number, number, number];
  const [h, w] = [Math.ceil(H / 2), Math.ceil(W / 2)]; // in tiles
  const asOne = N > 1 && h * w < MANY_TILES; // all pictures' tiles are multiplied at once
  const swap = (value: Value, shape: readonly number[]) => g.transpose(g.reshape(value, shape), [1, 0, 2]);

  const V = transformTiles(g, x, [h, w]);
  const tiles = asOne ? g.reshape(swap(V, [N, PLACES * C, h * w]), [1, PLACES * C, N, h * w]) : V;
  const M = multiplyKernels(g, tiles, name, out);

  // Y = Aᵀ M A: four pixels of each tile, then brought to where they belong
  const rows = g.reshape(M, [asOne ? 1 : N, PLACES, (asOne ? N : 1) * out * h * w]);
  const A = g.constant('A⊗A', Float32Array.from(kronecker(Aᵀ, Aᵀ).flat()), [4, PLACES]);
  const pixels = g.split(g.op('MatMul', [A, rows], rows.shape.with(1, 4)), 1, [1, 1, 1, 1]);
  const [width, height] = [2 * w, 2 * h];
  let y = asOne
    ? g.reshape(swap(interleave(g, pixels, [out, N, h, w]), [out, N, height * width]), [N, out, height, width])
    : interleave(g, pixels, [N, out, h, w]);
  if (height > H) y = g.slice(y, 2, 0, H);
  if (width > W) y = g.slice(y, 3, 0, W);
  return g.add(y, g.weight(`${name}.bias`, [out], { shape: [out, 1, 1] }));
}

/**
 * V = Bᵀ d B of all tiles: [N, C, H, W] → [N, 16·C, h, w]. For each place it is a convolution of four pixels, channel by channel, which stays
 * in onnxruntime's own layout.
 */
function transformTiles(g: NetworkGraph, x: Value, tiles: readonly [h: number, w: number]): Value {
  const [, C, ...size] = x.shape as [number, number, number, number];
  const places = Bᵀ.flatMap((row) =>
    Bᵀ.map((column) => {
      const both = [row, column];
      const factors = kronecker([row.factors], [column.factors]).flat();
      const kernel = g.once(`B of ${C} ${factors}`, () => {
        const one = g.constant(`B ${factors}`, Float32Array.from(factors), [1, 1, 2, 2]);
        return g.op('Expand', [one, g.integers([C, 1, 2, 2])], [C, 1, 2, 2]);
      });
      // A tile begins a pixel before those that it gives.
      const before = both.map(({ places: [first] }) => 1 - first);
      const after = both.map(({ places: [, last] }, i) => 2 * tiles[i]! + last - 2 - size[i]!);
      const dilations = both.map(({ places: [first, last] }) => last - first);
      return g.conv(x, kernel, undefined, { strides: [2, 2], dilations, pads: [...before, ...after], group: C });
    }),
  );
  return g.concat(places, 1);
}

/**
 * M = U·V, U = G g Gᵀ being [16, out, C]: [N, 16·C, …] → [N, 16·out, …]. A small U is made once and multiplied in onnxruntime's own layout,
 * as 16 groups of a 1×1 convolution. A large one is made in each run, in some milliseconds: to keep it would take 16/9 of the weights'
 * memory, and twice that while it is made.
 */
function multiplyKernels(g: NetworkGraph, V: Value, name: string, out: number): Value {
  const [N, channels, height, width] = V.shape as [number, number, number, number];
  const C = channels / PLACES;
  const kernels = g.weight(`${name}.weight`, [out, C, 3, 3], { shape: [out * C, 9] });
  const factors = g.constant('G⊗G', Float32Array.from(kronecker(G, G).flat()), [PLACES, 9]);
  /** The transformed kernels U. onnxruntime computes a Gemm of constants once, at opening, and its own FusedMatMul in each run. */
  const U = (kind: string, domain: '' | 'com.microsoft', shape: readonly number[]) =>
    g.once(`U of ${name}`, () => {
      const options = { domain, attributes: { transB: 1 } };
      return g.reshape(g.op(kind, [factors, kernels], [PLACES, out * C], options), shape);
    });
  if (out * C <= MAX_KEPT) return g.conv(V, U('Gemm', '', [PLACES * out, C, 1, 1]), undefined, { group: PLACES });
  const length = height * width;
  const tiles = [U('FusedMatMul', 'com.microsoft', [PLACES, out, C]), g.reshape(V, [N, PLACES, C, length])];
  return g.op('MatMul', tiles, [N, PLACES, out, length]);
}

/** The Kronecker product, by rows. */
const kronecker = (a: readonly (readonly number[])[], b: readonly (readonly number[])[]) =>
  a.flatMap((row) => b.map((other) => row.flatMap((x) => other.map((y) => x * y))));
