/** The graphs of a model's networks for each policy and size, and the memory that they need. */
import type { Graph, GraphOptions } from '../../onnx/graph.ts';
import { clipVision } from '../../onnx/image-encoder.ts';
import { type Device, demand, POLICIES, SMALLEST_POLICY } from '../../onnx/policy.ts';
import { type CachedForm, unet } from '../../onnx/unet.ts';
import { vaeDecoder, vaeEncoder } from '../../onnx/vae.ts';
import { type GpuLimits, type Policy, sizeOf } from '../../onnx/value.ts';
import type { ClipSize } from '../model.ts';
import type { openFiles } from './files.ts';

/** Pixels that a latent is wide and high. */
export const LATENT_SCALE = 8;
/** A frame's height and width are multiples of it. */
export const SIDE = 64;
/** Graphs that are kept, some MB each in the real size: those of the last clips, which are often of one size. */
const MAX_GRAPHS = 16;
/** Numbers of bytes that are kept. */
const MAX_SIZES = 10_000;

export type Graphs = ReturnType<typeof createGraphs>;
export type NetworkName = Parameters<Graphs['graphOf']>[0];

/**
 * Graphs of the four networks, and of the UNet's shallow form. `depth` is that of the features that the UNet caches, 0 if it caches none.
 * @throws WeightsError: a tensor that is missing or of another shape or type
 */
export function createGraphs(
  { configs, weights }: ReturnType<typeof openFiles>,
  device: Device,
  limits: GpuLimits | undefined,
) {
  const smallest = SMALLEST_POLICY[device];
  const suited = (policy: Policy): GraphOptions => ({ policy, precision: POLICIES[policy].precision, limits });
  const writeUnet = (policy: Policy, { T, H, W }: ClipSize, cached?: CachedForm) =>
    unet(weights.unet, configs.unet, { B: 1, T, h: H / LATENT_SCALE, w: W / LATENT_SCALE }, suited(policy), cached);
  const write = {
    clip: (policy: Policy) => clipVision(weights.clip, configs.clip, suited(policy)),
    // In half precision the encoder overflows, as diffusers' force_upcast knows.
    encoder: (policy: Policy, { H, W }: ClipSize) =>
      vaeEncoder(weights.vae, configs.vae, { B: 1, H, W }, { policy, limits }),
    unet: (policy: Policy, size: ClipSize, depth: number) =>
      writeUnet(policy, size, depth > 0 ? { depth, form: 'whole' } : undefined),
    'shallow unet': (policy: Policy, size: ClipSize, depth: number) =>
      writeUnet(policy, size, { depth, form: 'shallow' }),
    decoder: (policy: Policy, { T, H, W }: ClipSize) =>
      vaeDecoder(weights.vae, configs.vae, { T, h: H / LATENT_SCALE, w: W / LATENT_SCALE }, suited(policy)),
  };
  type NetworkName = keyof typeof write;
  // Written once in small, so that a tensor that is missing or of another shape is found now and not by a job.
  for (const graph of Object.values(write)) graph(smallest, { T: 1, H: SIDE, W: SIDE }, 1);

  const graphOf = memoize(
    MAX_GRAPHS,
    (network: NetworkName, policy: Policy, H: number, W: number, T: number, depth: number): Graph =>
      write[network](policy, { H, W, T }, depth),
  );
  /** The least memory, in bytes, that a run of a network needs. On a processor this includes two copies of its outputs. */
  const needOf = memoize(MAX_SIZES, (network: NetworkName, H: number, W: number, T: number, depth: number): number => {
    const graph = write[network](smallest, { H, W, T }, depth); // a tenth of a second in the real size
    const outputs = 2 * graph.outputs.reduce((sum, output) => sum + sizeOf(output), 0);
    return demand(graph).peak + (device === 'cpu' ? outputs : 0);
  });
  /** The least memory, in bytes, in which a clip of this size can be made: that of its largest network, when frames are decoded one by one. */
  const minimumMemory = ({ H, W, T }: ClipSize) =>
    Math.max(
      ...(['clip', 'encoder', 'decoder'] as const).map((name) => needOf(name, H, W, 1, 0)),
      needOf('unet', H, W, T, 0),
    );

  /** Of the graph that a session is opened with. */
  const nodesOfDecoder = (H: number, W: number, T: number) => graphOf('decoder', smallest, H, W, T, 0).countNodes();

  return { graphOf, needOf, nodesOfDecoder, minimumMemory };
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
