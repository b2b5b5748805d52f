import { formatMemory } from '../../../core/format.ts';
import { JobError } from '../../../core/job.ts';
import type { Graph, GraphOptions } from '../../onnx/graph.ts';
import { clipVision } from '../../onnx/image-encoder.ts';
import { demand, FASTEST_POLICY, POLICIES, SMALLEST_POLICY } from '../../onnx/policy.ts';
import { OutOfMemory } from '../../onnx/session.ts';
import { createSessions, type SessionsOptions } from '../../onnx/session-cache.ts';
import { unet } from '../../onnx/unet.ts';
import { vaeDecoder, vaeEncoder } from '../../onnx/vae.ts';
import { type Policy, product } from '../../onnx/value.ts';
import type { ClipSize } from '../model.ts';
import { openFiles } from './files.ts';

/** Pixels that a latent is wide and high. */
export const LATENT_SCALE = 8;
/** A frame's height and width are multiples of it. */
const SIDE = 64;
/** Graphs that are kept, some MB each in the real size: those of the last clips, which are often of one size. */
const MAX_GRAPHS = 16;
/** Numbers of bytes that are kept. */
const MAX_SIZES = 10_000;

/**
 * The four networks of a model, and what fits into memory.
 * @throws WeightsError in one line: a missing or broken file, or a tensor that is missing or of another shape or type
 */
export function openNetworks(folder: string, options: SessionsOptions) {
  const { device, memory } = options;
  const { configs, weights } = openFiles(folder, device);
  const [fastest, smallest] = [FASTEST_POLICY[device], SMALLEST_POLICY[device]];
  const sessions = createSessions(options);

  const suited = (policy: Policy): GraphOptions => ({ policy, precision: POLICIES[policy].precision });
  const write = {
    clip: (policy: Policy) => clipVision(weights.clip, configs.clip, suited(policy)),
    // In half precision the encoder overflows, as diffusers' force_upcast knows.
    encoder: (policy: Policy, { H, W }: ClipSize) => vaeEncoder(weights.vae, configs.vae, { B: 1, H, W }, { policy }),
    unet: (policy: Policy, { T, H, W }: ClipSize) =>
      unet(weights.unet, configs.unet, { B: 1, T, h: H / LATENT_SCALE, w: W / LATENT_SCALE }, suited(policy)),
    decoder: (policy: Policy, { T, H, W }: ClipSize) =>
      vaeDecoder(weights.vae, configs.vae, { T, h: H / LATENT_SCALE, w: W / LATENT_SCALE }, suited(policy)),
  };
  type NetworkName = keyof typeof write;
  // Written once in small, so that a tensor that is missing or of another shape is found now and not by a job.
  for (const graph of Object.values(write)) graph(smallest, { T: 1, H: SIDE, W: SIDE });

  const graphOf = memoize(
    MAX_GRAPHS,
    (network: NetworkName, policy: Policy, H: number, W: number, T: number): Graph =>
      write[network](policy, { H, W, T }),
  );
  /** The least memory, in bytes, that a run of a network needs. On a processor this includes two copies of its output. */
  const needOf = memoize(MAX_SIZES, (network: NetworkName, H: number, W: number, T: number): number => {
    const graph = write[network](smallest, { H, W, T }); // a tenth of a second in the real size
    const output = 2 * 4 * product(graph.outputs[0]!.shape);
    return demand(graph).peak + (device === 'cpu' ? output : 0);
  });
  /** The least memory, in bytes, in which a clip of this size can be made: that of its largest network, when frames are decoded one by one. */
  const minimumMemory = ({ H, W, T }: ClipSize) =>
    Math.max(needOf('clip', H, W, 1), needOf('encoder', H, W, 1), needOf('decoder', H, W, 1), needOf('unet', H, W, T));

  /** The most frames, halved from `decoding_t`, that can be decoded at a time. */
  function framesAtATime({ H, W, T }: ClipSize, decoding_t: number): number {
    let count = Math.min(decoding_t, T);
    while (count > 1 && needOf('decoder', H, W, count) > memory) count >>= 1;
    return count;
  }

  const get = (network: NetworkName, { H, W, T }: ClipSize, runs: number, reservedBytes?: number) =>
    sessions.get(network, (policy) => graphOf(network, policy, H, W, T), runs, reservedBytes);

  return {
    configs,
    framesAtATime,
    clip: () => get('clip', { H: SIDE, W: SIDE, T: 1 }, 1),
    encoder: (size: ClipSize) => get('encoder', { ...size, T: 1 }, 1),
    decoder: (size: ClipSize) => get('decoder', size, 1),
    /** @param decoding_t frames that are decoded at a time afterwards: the decoder's memory is reserved */
    unet(size: ClipSize, decoding_t: number, steps: number) {
      const { H, W } = size;
      const T = framesAtATime(size, decoding_t);
      const decoder = demand(graphOf('decoder', fastest, H, W, T)).peak;
      return get('unet', size, 2 * steps, Math.max(needOf('decoder', H, W, T), decoder));
    },
    closeIfCheap: sessions.closeIfCheap,
    closeAll: sessions.closeAll,

    /** @throws JobError: a clip of this size never fits; it names the largest sizes that do */
    check(size: ClipSize): void {
      const needed = minimumMemory(size);
      if (needed <= memory) return;
      const { H, W, T } = size;
      const smaller: string[] = [];
      const frames = largest(T - 1, (T) => minimumMemory({ ...size, T }) <= memory);
      if (frames) smaller.push(`T ${frames} at this size`);
      const sides = largest(Math.max(H, W) / SIDE - 1, (n) => minimumMemory(scaled(size, n)) <= memory);
      if (sides) smaller.push(`W ${scaled(size, sides).W}, H ${scaled(size, sides).H} with as many frames`);
      const fits = smaller.length > 0 ? `at most ${smaller.join(', or ')}` : 'no clip fits into it';
      const memories = `needs about ${formatMemory(needed)} of memory, and this worker has ${formatMemory(memory)}`;
      throw new JobError('out_of_memory', `W ${W}, H ${H}, T ${T} ${memories}: ${fits}`);
    },
  };
}
export type Networks = ReturnType<typeof openNetworks>;

/** The job's error if memory ran out although the estimate fitted. Other programs may have taken some. Other errors are returned unchanged. */
export function toJobError(error: unknown, { H, W, T }: ClipSize): unknown {
  if (!(error instanceof OutOfMemory)) return error;
  const message = `memory ran out at W ${W}, H ${H}, T ${T}; use a smaller size or fewer frames`;
  return new JobError('out_of_memory', message, { cause: error });
}

/** The largest whole number from 1 to `limit` that fits, or 0. Binary search; `fits` is monotone. */
function largest(limit: number, fits: (n: number) => boolean): number {
  let [from, to] = [0, Math.max(0, Math.floor(limit))];
  while (from < to) {
    const middle = (from + to + 1) >> 1;
    if (fits(middle)) from = middle;
    else to = middle - 1;
  }
  return from;
}

/** The size of about this aspect whose longer side is n·64. */
function scaled({ H, W, T }: ClipSize, n: number): ClipSize {
  const side = (length: number) => Math.max(1, Math.round((n * length) / Math.max(H, W))) * SIDE;
  return { H: side(H), W: side(W), T };
}

/** Keeps a function's last `max` results. */
function memoize<A extends readonly unknown[], R>(max: number, make: (...args: A) => R): (...args: A) => R {
  const results = new Map<string, R>(); // the least recently used first
  return (...args) => {
    const key = args.join(' ');
    const result = results.get(key) ?? make(...args);
    results.delete(key);
    results.set(key, result);
    if (results.size > max) results.delete(results.keys().next().value!);
    return result;
  };
}
