/**
 * How a network's session is opened, by device, memory and the number of its runs. Measured with svd_xt's UNet, files in single precision,
 * on two cores: prepacked it opens in 10–25 s and then holds 4.2 GiB; mapped in 0.33 s and 0.1 GiB, plus pages of the file.
 */
import type { DEVICES } from '../../core/job.ts';
import type { Policy } from './value.ts';

export type Device = (typeof DEVICES)[number];

/** The policies of each device with the fastest runs, and with the least memory. */
export const FASTEST_POLICY: Record<Device, Policy> = { cpu: 'prepacked', cuda: 'cuda', webgpu: 'webgpu' };
export const SMALLEST_POLICY: Record<Device, Policy> = { cpu: 'mapped', cuda: 'cuda', webgpu: 'webgpu' };

/** Bytes. */
export interface Demand {
  /** at most, while it is opened and runs */
  peak: number;
  /** kept between runs */
  held: number;
  /** of weights alone */
  weights: number;
}

interface PolicyTraits {
  /** what networks compute in */
  precision: 'float32' | 'float16';
  /** whether weights are also inputs of the graph, so that onnxruntime leaves them in their file */
  weightsAreInputs: boolean;
  /** an estimate from the bytes of weights and of values; the factors are those between estimate and measurement, rounded up */
  demand(weights: number, values: number): Omit<Demand, 'weights'>;
  /** onnxruntime's options */
  session: object;
}

/**
 * A column for each policy; `formulations/` has another. All sessions keep the memory of values from run to run. Memory patterns are off:
 * they take the memory of all values a second time. The arena is on: without it the decoder takes twice the time, and the UNet twice the
 * memory.
 */
export const POLICIES = {
  prepacked: {
    precision: 'float32',
    weightsAreInputs: false,
    // Values have copies in another layout.
    demand: (weights, values) => ({ peak: 2 * values + 1.6 * weights, held: 1.3 * weights + 2 * values }),
    session: { executionProviders: ['cpu'], graphOptimizationLevel: 'all', enableMemPattern: false },
  },
  mapped: {
    precision: 'float32',
    weightsAreInputs: true,
    demand: (weights, values) => ({ peak: 1.6 * values + 0.1 * weights, held: 1.6 * values }),
    session: {
      executionProviders: ['cpu'],
      graphOptimizationLevel: 'extended', // 'all' brings weights into another layout, and so into memory
      enableMemPattern: false,
      extra: { session: { disable_prepacking: '1' } },
    },
  },
  cuda: {
    precision: 'float16',
    weightsAreInputs: false,
    demand: (weights, values) => ({ peak: 1.6 * values + weights, held: 1.6 * values + weights }),
    session: { executionProviders: ['cuda', 'cpu'], graphOptimizationLevel: 'all', enableMemPattern: false },
  },
  webgpu: {
    // Half precision would also add in half precision: 33 dB at the widest convolution.
    precision: 'float32',
    weightsAreInputs: true, // if shaders know half precision
    demand: (weights, values) => ({ peak: 2.4 * values + weights, held: 2.4 * values + weights }),
    session: {
      // Of the ways to keep buffers, the one with the least memory. Those that release buffers early need more.
      executionProviders: [{ name: 'webgpu', storageBufferCacheMode: 'bucket' }],
      graphOptimizationLevel: 'all',
      enableMemPattern: false,
      extra: { session: { disable_cpu_ep_fallback: '1' } },
    },
  },
} as const satisfies Record<Policy, PolicyTraits>;

/** What a graph's demand is estimated from. */
export interface SizedGraph {
  policy: Policy;
  weightBytes(): number;
  peakBytes(): number;
}

const known = new WeakMap<SizedGraph, Demand>(); // each job needs it, and it takes some 20 ms

export function demand(graph: SizedGraph): Demand {
  const found = known.get(graph);
  if (found) return found;
  const weights = graph.weightBytes();
  const result = { ...POLICIES[graph.policy].demand(weights, graph.peakBytes()), weights };
  known.set(graph, result);
  return result;
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
  graphOf: (policy: Policy) => SizedGraph,
  { device, runs, memory, reservedBytes }: { device: Device; runs: number; memory: number; reservedBytes: number },
): Policy {
  if (device !== 'cpu') return device;
  const { peak, held, weights } = demand(graphOf('prepacked'));
  if (runs < MANY_RUNS && weights > FEW_BYTES) return 'mapped';
  return peak <= memory && held + reservedBytes <= memory ? 'prepacked' : 'mapped';
}
