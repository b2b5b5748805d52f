import { createGraph, type GraphOptions } from '../graph.ts';
import { plainConv } from '../layers.ts';
import type { SafeTensors } from '../safetensors.ts';
import type { Policy } from '../value.ts';
import { attendByPlaces, attendInPlace, attendTransposed, inSlices, multiHead } from './attention.ts';
import { cornerConvs, dilatedConv, flatConv, neighboursConv, resizeConv } from './conv.ts';
import { convolutionsInParts, linearFeedForward } from './feed-forward.ts';
import { fusedMatMul, gemm } from './linear.ts';
import { byMeans, depthwise, instanceNorm, layerNormOfGroups, multiplyAdd } from './norm.ts';
import { belowEachOther, framesOfRows, strips, unchanged, unrolled, whole } from './parts.ts';
import type { Formulations, NetworkGraph } from './types.ts';
import { winogradWhereFaster } from './winograd.ts';

const common = {
  linear: fusedMatMul,
  attention: multiHead,
  videoOf: belowEachOther,
  framesOf: framesOfRows,
};

/** What a processor runs fastest, wherever the weights are. */
const processor = {
  ...common,
  upsample: cornerConvs,
  temporalConv: dilatedConv,
  normalize: layerNormOfGroups,
  normalizeVideo: layerNormOfGroups,
  scaleShift: depthwise,
  temporalAttention: attendInPlace,
  feedForward: convolutionsInParts,
};

/** The table of formulations: a column for each policy. The measurements behind it are in docs/performance.md. */
const TABLE: Record<Policy, Formulations> = {
  prepacked: {
    ...processor,
    conv3x3: winogradWhereFaster,
    perPlace: strips,
    oneByOne: (g, x, layer) => g.scan(x, layer, { ownConstants: true }),
    block: (_, make) => make(),
  },
  mapped: {
    ...processor,
    conv3x3: plainConv,
    perPlace: whole,
    oneByOne: (g, x, layer) => g.scan(x, layer, { ownConstants: false }),
    block: (g, make) => g.subgraph(make),
  },
  cuda: {
    ...common,
    conv3x3: plainConv,
    upsample: resizeConv,
    temporalConv: flatConv,
    perPlace: whole,
    normalize: instanceNorm,
    normalizeVideo: instanceNorm,
    scaleShift: multiplyAdd,
    temporalAttention: attendTransposed,
    feedForward: linearFeedForward,
    oneByOne: unrolled,
    block: (_, make) => make(),
  },
  // A video stays frames, so that values which exceed a GPU's largest binding can be divided along them.
  webgpu: {
    linear: gemm, // there is no kernel for FusedMatMul
    conv3x3: plainConv,
    upsample: resizeConv,
    videoOf: unchanged,
    framesOf: unchanged,
    temporalConv: neighboursConv,
    perPlace: whole,
    normalize: (g, x, epsilon) => byMeans(g, x, epsilon, 1),
    normalizeVideo: byMeans,
    scaleShift: multiplyAdd,
    attention: inSlices,
    temporalAttention: attendByPlaces,
    feedForward: linearFeedForward,
    oneByOne: unrolled,
    block: (_, make) => make(),
  },
};

/** An empty graph for a network whose layers are written as its policy's column says. */
export function createNetworkGraph(weights: SafeTensors, options?: GraphOptions): NetworkGraph {
  const g = createGraph(weights, options);
  return { ...g, formulations: TABLE[g.policy] };
}
