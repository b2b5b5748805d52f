import { formatMemory } from '../../../core/format.ts';
import { JobError } from '../../../core/job.ts';
import { DRAFT } from '../../../core/presets.ts';
import { type Device, demand, FASTEST_POLICY, SMALLEST_POLICY } from '../../onnx/policy.ts';
import { openSafeTensors } from '../../onnx/safetensors.ts';
import { OutOfMemory } from '../../onnx/session.ts';
import { createSessions, type SessionsOptions } from '../../onnx/session-cache.ts';
import { type Policy, sizeOf } from '../../onnx/value.ts';
import type { ClipNeeds, ClipSize } from '../model.ts';
import type { FeatureCache, UnetSessions } from './feature-cache.ts';
import { openFiles } from './files.ts';
import { createGraphs, type Graphs, type NetworkName, SIDE } from './graphs.ts';

export interface NetworkOptions extends SessionsOptions {
  /** file of the UNet's weights; default: the one in the folder */
  unet?: string | undefined;
  /** file of the UNet for drafts; default: there are no drafts */
  draftUnet?: string | undefined;
}

/**
 * Of the decoder in parts, for several frames. onnxruntime opens a graph in up to the square of its nodes: so many take some 10 s. Only on
 * GPUs whose largest binding is small there are more.
 */
const MAX_NODES = 10_000;

/**
 * The four networks of a model, and perhaps a second UNet, and what fits into memory.
 * @throws WeightsError in one line: a missing or broken file, or a tensor that is missing or of another shape or type
 */
export function openNetworks(folder: string, { unet, draftUnet, ...options }: NetworkOptions) {
  const { device, memory, limits } = options;
  const files = openFiles(folder, { half: device === 'cuda' || limits?.half, unet });
  const graphs = createGraphs(files, device, limits);
  const weights = draftUnet === undefined ? undefined : { ...files.weights, unet: openSafeTensors(draftUnet) };
  const draftGraphs = weights && createGraphs({ ...files, weights }, device, limits);
  const { needOf, nodesOfDecoder } = graphs;
  const fastest = FASTEST_POLICY[device];
  const sessions = createSessions(options);

  /** The most frames, halved from `decoding_t`, that can be decoded at a time. */
  function framesAtATime({ H, W, T }: ClipSize, decoding_t: number): number {
    const decodable = (count: number) =>
      needOf('decoder', H, W, count, 0) <= memory && (!limits || nodesOfDecoder(H, W, count) <= MAX_NODES);
    let count = Math.min(decoding_t, T);
    while (count > 1 && !decodable(count)) count >>= 1;
    return count;
  }

  /** @throws JobError: there is no such UNet */
  function graphsWith(unet: ClipNeeds['unet']): Graphs {
    const found = unet ? draftGraphs : graphs;
    if (found) return found;
    const message = `speed ${DRAFT.speed} needs the UNet of ${unet}, which this worker did not find at its start`;
    throw new JobError('invalid_input', `${message}: npm run models -- ${unet} downloads it`);
  }

  function get(network: NetworkName, { H, W, T, unet }: ClipNeeds, runs: number, reservedBytes = 0, depth = 0) {
    const { graphOf } = graphsWith(unet);
    const name = unet ? `${network} of ${unet}` : network;
    return sessions.get(
      depth > 0 ? `${name}, cache depth ${depth}` : name,
      (policy) => graphOf(network, policy, H, W, T, depth),
      runs,
      reservedBytes,
    );
  }

  /** The UNet's two forms, both open. @returns undefined: memory is not enough for both and for the features */
  async function openForms(size: ClipNeeds, steps: number, { depth }: FeatureCache, decoder: number) {
    const bytes = memoryOfForms(graphsWith(size.unet), size, depth, device);
    if (bytes.least > memory) return undefined;
    const [whole, shallow] = bytes.held;
    const reserved = Math.max(bytes.most, whole + shallow + decoder);
    const runs = 2 * steps; // of both forms: a clip gains from weights in memory what both of them gain
    const forms = {
      whole: await get('unet', size, runs, reserved - whole, depth),
      shallow: await get('shallow unet', size, runs, reserved - shallow, depth),
    };
    return sessions.isOpen(forms.whole) ? forms : undefined; // it was closed if memory ran out for the other
  }

  return {
    configs: files.configs,
    framesAtATime,
    clip: () => get('clip', { H: SIDE, W: SIDE, T: 1 }, 1),
    encoder: (size: ClipSize) => get('encoder', { ...size, T: 1 }, 1),
    decoder: (size: ClipSize) => get('decoder', size, 1),
    /**
     * @param decoding_t frames that are decoded at a time afterwards: the decoder's memory is reserved
     * @param cache is not used if memory is not enough: then there is no shallow form
     */
    async unet(size: ClipNeeds, decoding_t: number, steps: number, cache?: FeatureCache): Promise<UnetSessions> {
      const { H, W } = size;
      const T = framesAtATime(size, decoding_t);
      const decoder = Math.max(
        needOf('decoder', H, W, T, 0),
        demand(graphs.graphOf('decoder', fastest, H, W, T, 0)).peak,
      );
      const forms = cache && (await openForms(size, steps, cache, decoder));
      return forms ?? { whole: await get('unet', size, 2 * steps, decoder) };
    },
    closeIfCheap: sessions.closeIfCheap,
    closeAll: sessions.closeAll,

    /** @throws JobError: the clip's UNet is missing; or a clip of this size never fits: it names the largest sizes that do */
    check({ H, W, T, unet }: ClipNeeds): void {
      const { minimumMemory } = graphsWith(unet);
      const size = { H, W, T };
      const needed = minimumMemory(size);
      if (needed <= memory) return;
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

/** Bytes of the UNet's two forms and the features of both branches, for clips that cache features. */
function memoryOfForms({ graphOf, needOf }: Graphs, { H, W, T }: ClipSize, depth: number, device: Device) {
  const names = ['unet', 'shallow unet'] as const;
  const features = 2 * sizeOf(graphOf('unet', FASTEST_POLICY[device], H, W, T, depth).outputs[1]!);
  const demandsOf = (policy: Policy) => names.map((name) => demand(graphOf(name, policy, H, W, T, depth)));
  /** while one form is opened or runs, and the other is kept */
  const together = (peaks: readonly number[], [whole, shallow]: readonly { held: number }[]) =>
    features + Math.max(peaks[0]! + shallow!.held, peaks[1]! + whole!.held);

  const fastest = demandsOf(FASTEST_POLICY[device]);
  const needs = names.map((name) => needOf(name, H, W, T, depth));
  return {
    /** with the smallest policy */
    least: together(needs, demandsOf(SMALLEST_POLICY[device])),
    /** with the fastest policy */
    most: together(
      fastest.map(({ peak }) => peak),
      fastest,
    ),
    /** of the whole and of the shallow form, between runs, with the fastest policy */
    held: fastest.map(({ held }) => held) as [number, number],
  };
}
