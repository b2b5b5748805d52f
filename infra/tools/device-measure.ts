/** What `npm run device` measures of one device. It runs in a process of its own, and answers its Task with Reports. */
import { mkdtempSync, rmSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { formatBytes, formatMemory } from '../../core/format.ts';
import { doTask } from '../../handler/child-program.ts';
import { checkNetworks, faultOf, type NetworkCheck } from '../../handler/models/svd/self-check.ts';
import { type FoundDevice, findDevice, productRate, usableMemory } from '../../handler/onnx/device.ts';
import type { Graph, GraphOptions } from '../../handler/onnx/graph.ts';
import { choosePolicy, type Device, demand, FASTEST_POLICY, POLICIES } from '../../handler/onnx/policy.ts';
import { openSafeTensors, type SafeTensors } from '../../handler/onnx/safetensors.ts';
import { openSession } from '../../handler/onnx/session.ts';
import { firstBlock, unet } from '../../handler/onnx/unet.ts';
import { vaeDecoder } from '../../handler/onnx/vae.ts';
import { type Policy, product } from '../../handler/onnx/value.ts';
import { generator } from '../../handler/sampling/torch-random.ts';
import { isMain } from './command.ts';
import { SVD_XT, safeTensorsHeader, shapesOf, writeRandomWeights } from './svd-xt-weights.ts';

/** Of a clip, in pixels and frames. */
export interface Size {
  width: number;
  height: number;
  frames: number;
}

export type Task =
  | { kind: 'examine'; device: Device; model: string | undefined }
  /** @param folder for files of weights; it exists */
  | { kind: 'full size'; device: FoundDevice; size: Size; folder: string };

/** In what a network is computed; mixed: in single precision, with weights in half precision. */
export type Precision = 'single' | 'mixed' | 'half';
export type PreciseCheck = NetworkCheck & { precision: Precision };

/** Milliseconds of a network in svd_xt's widths with random weights. */
export interface Speed extends Size {
  precision: Precision;
  open_ms: number;
  /** of the first run, in which some devices compile */
  first_ms: number;
  /** of the second run */
  ms?: number;
  /** whether all numbers of the output are finite */
  finite: boolean;
}

export interface Measurements {
  found?: FoundDevice;
  checks?: PreciseCheck[];
  /** why it must not serve */
  fault?: string;
  product_gflops?: number;
  block?: Speed;
  /** of one frame */
  decoder?: Speed;
  /** of one evaluation; a step under guidance has two */
  unet?: Speed;
}

/** `peak` is the process's largest resident memory in bytes, `error` why a step has failed. */
export type Report = { begins: Step } | { measured: Measurements; peak: number } | { ends: Step; error?: string };

type Send = (report: Report) => Promise<void>;

/** In their order. */
export const STEPS = {
  examine: ['find', 'self-check', 'matrix product', 'UNet block'],
  'full size': ['self-check', 'decoder', 'UNet'],
} as const satisfies Record<Task['kind'], readonly string[]>;
export type Step = (typeof STEPS)[Task['kind']][number];

/** Runs a step: what it yields is sent at once, and so is its error. */
async function runStep(send: Send, step: Step, measure: () => AsyncGenerator<Measurements>): Promise<void> {
  await send({ begins: step });
  try {
    for await (const measured of measure()) await send({ measured, peak: process.resourceUsage().maxRSS * 1024 });
    await send({ ends: step });
  } catch (error) {
    await send({ ends: step, error: (error as Error).message.split('\n')[0]! });
  }
}

async function examine(name: Device, model: string | undefined, send: Send): Promise<void> {
  let device: FoundDevice | undefined;
  await runStep(send, 'find', async function* () {
    device = await findDevice(name, { acceptSlow: true });
    yield { found: device };
  });
  const found = device;
  if (!found) return;
  await runStep(send, 'self-check', () => check(found, precisionOf(found), model));
  const policy = FASTEST_POLICY[name];
  let rate = 0;
  await runStep(send, 'matrix product', async function* () {
    rate = await productRate(policy);
    if (rate > FAST && name !== 'cpu') rate = await productRate(policy, 100);
    yield { product_gflops: rate };
  });
  await runStep(send, 'UNet block', () => measureBlock(found, rate));
}
/** GFLOP/s from which the transfer of a matrix takes longer than its product. */
const FAST = 100;

/** @yields all checks so far after each */
async function* check(
  device: FoundDevice,
  precision: Precision,
  model: string | undefined,
): AsyncGenerator<Measurements> {
  const checks: PreciseCheck[] = [];
  let fault: string | undefined;
  for await (const result of checkNetworks(device, model)) {
    checks.push({ ...result, precision });
    fault ??= faultOf(result, device);
    yield { checks, ...(fault && { fault }) };
  }
}

/** Of the files that a worker would read. */
function precisionOf({ device, limits }: FoundDevice): Precision {
  if (POLICIES[FASTEST_POLICY[device]].precision === 'float16') return 'half';
  return limits?.half ? 'mixed' : 'single';
}

async function measureFullSize(device: FoundDevice, size: Size, folder: string, send: Send): Promise<void> {
  const { limits } = device;
  await runStep(send, 'self-check', async function* () {
    // Without the limit `half`, weights are brought into single precision when a session opens, as those of single files are.
    if (limits?.half) yield* check({ ...device, limits: { ...limits, half: false } }, 'single', undefined);
  });
  const [h, w, T] = [size.height / 8, size.width / 8, size.frames];
  await runStep(send, 'decoder', async function* () {
    const write = (weights: SafeTensors, options: GraphOptions) =>
      vaeDecoder(weights, SVD_XT.vae, { T: 1, h, w }, options);
    for await (const decoder of measureNetwork(device, write, { ...size, frames: 1 }, folder)) yield { decoder };
  });
  await runStep(send, 'UNet', async function* () {
    const write = (weights: SafeTensors, options: GraphOptions) =>
      unet(weights, SVD_XT.unet, { B: 1, T, h, w }, options);
    for await (const speed of measureNetwork(device, write, size, folder)) yield { unet: speed };
  });
}

/** Sizes of the block, the largest first. The first one is a clip's. */
const BLOCK_SIZES: Size[] = [
  { width: 1024, height: 576, frames: 25 },
  { width: 448, height: 256, frames: 8 },
  { width: 128, height: 128, frames: 2 },
];
/** Milliseconds that a run of the block may take. */
const BLOCK_MS = 2000;

/** @param rate GFLOP/s */
async function* measureBlock(device: FoundDevice, rate: number): AsyncGenerator<Measurements> {
  const writeIn =
    ({ width, height, frames }: Size) =>
    (weights: SafeTensors, options: GraphOptions) =>
      firstBlock(weights, SVD_XT.unet, { T: frames, h: height / 8, w: width / 8 }, options);
  const suits = (size: Size) => {
    let operations = 0;
    let memory = 0;
    shapesOf((weights) => {
      const graph = writeIn(size)(weights, suited(device, FASTEST_POLICY[device.device]));
      [operations, memory] = [graph.operations(), demand(graph).peak];
      return graph;
    });
    return operations / rate / 1e6 < BLOCK_MS && memory < device.memory;
  };
  const size = BLOCK_SIZES.find(suits) ?? BLOCK_SIZES.at(-1)!;
  const folder = mkdtempSync(join(tmpdir(), 'device-'));
  try {
    for await (const block of measureNetwork(device, writeIn(size), size, folder)) yield { block };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const suited = ({ limits }: FoundDevice, policy: Policy): GraphOptions => ({
  policy,
  precision: POLICIES[policy].precision,
  limits,
});

/** A job of 25 steps runs the UNet so often. */
const RUNS = 50;

/**
 * Writes random weights, opens the network as a job would, and runs it twice.
 * @yields after each run
 * @throws Error of one line: disk or memory is not enough
 */
async function* measureNetwork(
  device: FoundDevice,
  write: (weights: SafeTensors, options: GraphOptions) => Graph,
  size: Size,
  folder: string,
): AsyncGenerator<Speed> {
  const fastest = suited(device, FASTEST_POLICY[device.device]);
  const shapes = shapesOf((weights) => write(weights, fastest));
  const precision = precisionOf(device);
  const type = precision === 'single' ? 'float32' : 'float16';
  const { fileBytes } = safeTensorsHeader(shapes, type);
  const { bavail, bsize } = statfsSync(folder);
  if (bavail * bsize < fileBytes)
    throw new Error(
      `${folder} has ${formatBytes(bavail * bsize)} free, and its weights need ${formatBytes(fileBytes)}`,
    );
  const path = join(folder, 'weights.safetensors');
  writeRandomWeights(path, shapes, type);
  const weights = openSafeTensors(path);
  const graphOf = (policy: Policy) => write(weights, suited(device, policy));
  const { memory } = device;
  const policy = choosePolicy(graphOf, { device: device.device, runs: RUNS, memory, reservedBytes: 0 });
  const graph = graphOf(policy);
  const need = demand(graph);
  requireMemory(need.peak, memory, 'the device');
  if (device.device !== 'cpu') requireMemory(need.weights, usableMemory(), 'the machine');

  const session = await openSession(graph);
  const { randn } = generator(1);
  const feeds = Object.fromEntries(graph.inputs.map(({ name, shape }) => [name, randn(product(shape))]));
  const output = await session.run(feeds);
  const finite = output.every((value) => Number.isFinite(value));
  const first = { ...size, precision, open_ms: session.timings.open, first_ms: session.timings.run, finite };
  yield first;
  await session.run(feeds);
  yield { ...first, ms: session.timings.run };
  await session.close();
  rmSync(path);
}

function requireMemory(needed: number, available: number, owner: string) {
  if (needed <= available) return;
  throw new Error(
    `about ${formatMemory(needed)} of memory are needed, and ${owner} has ${formatMemory(available)} free`,
  );
}

if (isMain(import.meta.url)) {
  doTask<Task, Report>((task, send) =>
    task.kind === 'examine'
      ? examine(task.device, task.model, send)
      : measureFullSize(task.device, task.size, task.folder, send),
  );
}
