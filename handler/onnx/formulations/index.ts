import { createGraph, type GraphOptions } from '../graph.ts';
import { plainConv } from '../layers.ts';
import type { SafeTensors } from '../safetensors.ts';
import type { Policy } from '../value.ts';
import { attendInPlace, attendTransposed } from './attention.ts';
import { cornerConvs, dilatedConv, flatConv, resizeConv } from './conv.ts';
import { convolutionsInParts, linearFeedForward } from './feed-forward.ts';
import { depthwise, instanceNorm, layerNormOfGroups, multiplyAdd } from './norm.ts';
import { strips, unrolled, whole } from './parts.ts';
import type { Formulations, NetworkGraph } from './types.ts';
import { winogradWhereFaster } from './winograd.ts';

/** What a processor runs fastest, wherever the weights are. */
const processor = {
  upsample: cornerConvs,
  temporalConv: dilatedConv,
  normalize: layerNormOfGroups,
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
    conv3x3: plainConv,
    upsample: resizeConv,
    temporalConv: flatConv,
    perPlace: whole,
    normalize: instanceNorm,
    scaleShift: multiplyAdd,
    temporalAttention: attendTransposed,
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
