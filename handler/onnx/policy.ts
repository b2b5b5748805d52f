/**
 * How a network's session is opened, by device, memory and how often it will run.
 *
 * Measured on two cores with a svd_xt UNet of the real size (1.525 B random parameters, half-precision files), before feed-forwards were
 * convolutions, the first dimension was left open and wide convolutions were transformed in each run (conv.ts):
 *
 * |           | opened in | memory then | at most | a run of 2×8×8 | of 7×32×56 |
 * |-----------|-----------|-------------|---------|----------------|------------|
 * | prepacked | 25–33 s   | 7.0 GiB     | 8.8 GiB | 0.35 s         | 16.2 s     |
 * | mapped    | 1.4 s     | 0.2 GiB     | 3.6 GiB, of which 2.8 are pages of the file | 1.2 s | 17.6 s |
 *
 * With files in single precision: prepacked 26 s and 5.8 GiB, mapped 0.7 s and 0.2 GiB then; 10–25 s and 4.2 GiB, 0.33 s and 0.1 GiB now.
 */
import type { Graph } from './graph.ts';
import type { Policy } from './value.ts';

export type Device = 'cpu' | 'cuda';

/**
 * onnxruntime's own options for each; all keep the memory of values from run to run. Memory patterns are off: they cost the memory of all
 * values a second time. Its arena is on: without it the decoder takes twice the time, and the UNet twice the memory, for the system's
 * allocator gives little back.
 */
export const SESSION = {
  prepacked: { executionProviders: ['cpu'], graphOptimizationLevel: 'all', enableMemPattern: false },
  mapped: {
    executionProviders: ['cpu'],
    graphOptimizationLevel: 'extended', // 'all' brings weights into another layout, and so into memory
    enableMemPattern: false,
    extra: { session: { disable_prepacking: '1' } },
  },
  cuda: { executionProviders: ['cuda', 'cpu'], graphOptimizationLevel: 'all', enableMemPattern: false },
} as const;

/** Bytes. */
export interface Demand {
  /** at most, while it is opened and runs */
  peak: number;
  /** kept between runs */
  held: number;
  /** of weights alone */
  weights: number;
}

const known = new WeakMap<Graph, Demand>(); // a graph is asked about in each job, and takes some 20 ms to answer

/** An estimate from the sizes of weights and values; the factors are those between estimate and measurement, rounded up. */
export function demand(graph: Graph): Demand {
  const result = known.get(graph) ?? estimate(graph);
  known.set(graph, result);
  return result;
}

function estimate(graph: Graph): Demand {
  const weights = graph.weightBytes();
  const values = (graph.policy === 'prepacked' ? 2 : 1.6) * graph.peakBytes(); // that policy has copies in another layout beside
  if (graph.policy === 'mapped') return { peak: values + 0.1 * weights, held: values, weights };
  if (graph.policy === 'cuda') return { peak: values + weights, held: values + weights, weights };
  return { peak: values + 1.6 * weights, held: 1.3 * weights + values, weights };
}

/** Runs from which weights in memory are worth the time to bring them there, */
const MANY_RUNS = 20;
/** and bytes of weights that are there within a second. */
const FEW_BYTES = 2 ** 29;

/**
 * @param written the network's graph for a policy
 * @param memory bytes that may be used
 * @param beside bytes that others need while this session is kept
 */
export function choosePolicy(
  written: (policy: Policy) => Graph,
  { device, runs, memory, beside }: { device: Device; runs: number; memory: number; beside: number },
): Policy {
  if (device === 'cuda') return 'cuda';
  const { peak, held, weights } = demand(written('prepacked'));
  if (runs < MANY_RUNS && weights > FEW_BYTES) return 'mapped';
  return peak <= memory && held + beside <= memory ? 'prepacked' : 'mapped';
}
