/**
 * How a network's session is opened, by device, memory and the number of its runs. Measured with svd_xt's UNet, files in single precision,
 * on two cores: prepacked it opens in 10–25 s and then holds 4.2 GiB; mapped in 0.33 s and 0.1 GiB, plus pages of the file.
 */
import type { Graph } from './graph.ts';
import type { Policy } from './value.ts';

export type Device = 'cpu' | 'cuda';

/** The policies of each device with the fastest runs, and with the least memory. */
export const FASTEST_POLICY: Record<Device, Policy> = { cpu: 'prepacked', cuda: 'cuda' };
export const SMALLEST_POLICY: Record<Device, Policy> = { cpu: 'mapped', cuda: 'cuda' };

/**
 * onnxruntime's options for each. All keep the memory of values from run to run. Memory patterns are off: they take the memory of all values
 * a second time. The arena is on: without it the decoder takes twice the time, and the UNet twice the memory.
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

const known = new WeakMap<Graph, Demand>(); // each job needs it, and it takes some 20 ms

/** An estimate from the sizes of weights and values. The factors are those between estimate and measurement, rounded up. */
export function demand(graph: Graph): Demand {
  const result = known.get(graph) ?? estimate(graph);
  known.set(graph, result);
  return result;
}

function estimate(graph: Graph): Demand {
  const weights = graph.weightBytes();
  const values = (graph.policy === 'prepacked' ? 2 : 1.6) * graph.peakBytes(); // prepacked there are copies in another layout
  if (graph.policy === 'mapped') return { peak: values + 0.1 * weights, held: values, weights };
  if (graph.policy === 'cuda') return { peak: values + weights, held: values + weights, weights };
  return { peak: values + 1.6 * weights, held: 1.3 * weights + values, weights };
}

/** Runs from which weights in memory are worth the time to bring them there. */
const MANY_RUNS = 20;
/** Bytes of weights that are in memory within a second. */
const FEW_BYTES = 2 ** 29;

/**
 * @param graphOf the network's graph for a policy
 * @param memory bytes that may be used
 * @param reservedBytes what other sessions need while this one is kept
 */
export function choosePolicy(
  graphOf: (policy: Policy) => Graph,
  { device, runs, memory, reservedBytes }: { device: Device; runs: number; memory: number; reservedBytes: number },
): Policy {
  if (device === 'cuda') return 'cuda';
  const { peak, held, weights } = demand(graphOf('prepacked'));
  if (runs < MANY_RUNS && weights > FEW_BYTES) return 'mapped';
  return peak <= memory && held + reservedBytes <= memory ? 'prepacked' : 'mapped';
}
