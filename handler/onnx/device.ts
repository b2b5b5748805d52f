/** The device that the networks run on, its memory and its limits. */
import { execFile } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { totalmem } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { SECOND } from '../../core/time.ts';
import { createGraph, type Graph } from './graph.ts';
import type { Device } from './policy.ts';
import { CUDA_PROVIDER, providerFolder } from './provider.ts';
import { NO_WEIGHTS } from './safetensors.ts';
import { hasWebGpu, withSession } from './session.ts';
import { type GpuLimits, LEAST_LIMITS, type Policy } from './value.ts';

/** A device that runs graphs. */
export interface FoundDevice {
  device: Device;
  /** of the GPU or its driver, as far as the system names it */
  name: string;
  /** bytes that may be used, Infinity if unknown */
  memory: number;
  /** of a WebGPU device */
  limits?: GpuLimits;
  /** why `auto` does not take it although it works */
  drawback?: string;
}

export interface ChosenDevice extends FoundDevice {
  /** why it was chosen, as text for the log */
  reason: string;
}

export type DeviceChoice = 'auto' | Device;
/**
 * @param acceptSlow whether an adapter of WebGPU that is slower than the processor counts, as software drivers are
 * @throws Error of one line: why the device can't be used
 */
export type FindDevice = (device: Device, options: { acceptSlow: boolean }) => Promise<FoundDevice>;

/**
 * @param wanted auto: CUDA if it works and passes the check, else WebGPU on a GPU that is faster than the processor, else the processor.
 * webgpu: also a software driver
 * @param examine finds a device and verifies it
 * @throws Error of one line: the wanted GPU does not work, or fails the check
 */
export async function chooseDevice(wanted: DeviceChoice, examine: FindDevice): Promise<ChosenDevice> {
  const cpu = (reason: string): ChosenDevice => ({ ...processor(), reason });
  if (wanted === 'cpu') return cpu('DEVICE is cpu');
  const obstacles: string[] = [];
  for (const device of wanted === 'auto' ? (['cuda', 'webgpu'] as const) : [wanted]) {
    try {
      const found = await examine(device, { acceptSlow: wanted === 'webgpu' });
      return {
        ...found,
        reason: wanted === device ? `DEVICE is ${device}` : [...obstacles, `${device} works`].join('; '),
      };
    } catch (error) {
      obstacles.push((error as Error).message);
    }
  }
  if (wanted !== 'auto') throw new Error(`DEVICE is ${wanted}, but ${obstacles[0]}`);
  return cpu(obstacles.join('; '));
}

/** Its first use of a GPU's driver may end this process, or never return. */
export const findDevice: FindDevice = async (device, options) => {
  if (device === 'cpu') return processor();
  requireProvider(device);
  return device === 'cuda' ? findCuda() : findWebGpu(options);
};

const processor = (): FoundDevice => ({ device: 'cpu', name: 'processor', memory: usableMemory() });

/**
 * Bytes: 85 % of the memory of machine or container, or what is free if that is less. A fixed share, so that a job's result, which
 * depends on it, is the same after a restart.
 */
export function usableMemory(): number {
  const limit = Math.min(totalmem(), process.constrainedMemory() || Infinity);
  return Math.min(0.85 * limit, process.availableMemory());
}

/** @throws Error of one line: onnxruntime has no such device here. Touches no driver. */
export function requireProvider(device: Device): void {
  if (device === 'cuda' && !existsSync(join(providerFolder, CUDA_PROVIDER)))
    throw new Error('onnxruntime’s CUDA provider is not installed (run npm run cuda)');
  if (device === 'webgpu' && !hasWebGpu())
    throw new Error(`onnxruntime has no WebGPU for ${process.platform} on ${process.arch}`);
}

/** The only proof is a graph that runs. */
async function findCuda(): Promise<FoundDevice> {
  await runOnce(sigmoid('cuda'), new Float32Array(1)).catch((error: Error) => {
    throw new Error(`CUDA does not start: ${/CUDA failure[^;]*/.exec(error.message)?.[0].trim() ?? firstLine(error)}`);
  });
  return { device: 'cuda', name: await gpuName(), memory: await freeGpuMemory() };
}

async function findWebGpu({ acceptSlow }: { acceptSlow: boolean }): Promise<FoundDevice> {
  await runOnce(sigmoid('webgpu'), new Float32Array(1)).catch((error: Error) => {
    if (!/adapter/i.test(error.message)) throw new Error(`WebGPU does not start: ${firstLine(error)}`);
    throw new Error(
      'WebGPU finds no GPU: its driver for Vulkan, or the Vulkan loader (libvulkan1), is missing or too old',
    );
  });
  const [own, processor] = [await productRate('webgpu'), await productRate('prepacked')];
  const software = own < processor; // its memory is the processor's
  const rates = `${own.toFixed(0)} GFLOP/s against ${processor.toFixed(0)}`;
  const drawback = `WebGPU’s adapter is slower than the processor (${rates}), like a software driver`;
  if (software && !acceptSlow) throw new Error(drawback);
  const memory = software || process.platform === 'darwin' ? usableMemory() : await freeGpuMemory();
  return {
    device: 'webgpu',
    name: software ? 'software driver' : await gpuName(),
    memory,
    limits: await probeLimits(),
    ...(software && { drawback }),
  };
}

export const firstLine = ({ message }: Error) => message.split('\n')[0]!;

/** x → sigmoid(x) of one number */
function sigmoid(policy: Policy): Graph {
  const graph = createGraph(NO_WEIGHTS, { policy });
  graph.output('y', graph.map('Sigmoid', graph.input('x', [1])));
  return graph;
}

/** Runs a graph of one input `x` once. */
const runOnce = (graph: Graph, x: Float32Array) => withSession(graph, (session) => session.run({ x }));

const SIDE = 1024;
/**
 * Billions of multiplications and additions a second in products of matrices of 1024 × 1024, the faster of two runs.
 * @param products in one run. A single one takes a fast GPU less time than the way of its numbers to the GPU and back.
 */
export async function productRate(policy: Policy, products = 1): Promise<number> {
  const graph = createGraph(NO_WEIGHTS, { policy });
  const x = graph.input('x', [SIDE, SIDE]);
  let y = x;
  for (let i = 0; i < products; i++) y = graph.op('MatMul', [y, x], [SIDE, SIDE]);
  graph.output('y', y);
  const data = new Float32Array(SIDE * SIDE).fill(1 / SIDE);
  return withSession(graph, async (session) => {
    let least = Infinity;
    for (let i = 0; i < 3; i++) {
      await session.run({ x: data }); // the first one also compiles
      if (i > 0) least = Math.min(least, session.timings.run);
    }
    return (products * 2 * SIDE ** 3) / least / 1e6;
  });
}

/** Sizes of bindings that are tried, in bytes, the guaranteed one first. Most GPUs allow 2 or 4 GiB less 4 bytes. */
const BINDINGS = [LEAST_LIMITS.binding, 2 ** 28, 2 ** 29, 2 ** 30, 2 ** 31 - 2 ** 22];

/** What a device allows. Node can't read its limits, so each is tried: above a limit, kernels fail or give wrong numbers. */
export async function probeLimits(): Promise<GpuLimits> {
  const works = (graph: Graph, expected: number) =>
    runOnce(graph, Float32Array.of(0.25)).then(
      ([y]) => Math.abs(y! / expected - 1) < 1e-3,
      () => false,
    );
  let { binding } = LEAST_LIMITS;
  for (const bytes of BINDINGS.slice(1)) {
    if (!(await works(largeSoftmax(bytes), 1 / ROW))) break;
    binding = bytes;
  }
  const half = createGraph(NO_WEIGHTS, { policy: 'webgpu' });
  half.output('y', half.cast(half.cast(half.input('x', [1]), 'float16'), 'float32'));
  return { binding, half: await works(half, 0.25) };
}

const ROW = 1024;
/** The mean of a softmax over rows of equal numbers, in a tensor of so many bytes: 1 / 1024 */
function largeSoftmax(bytes: number): Graph {
  const graph = createGraph(NO_WEIGHTS, { policy: 'webgpu', limits: { binding: bytes, half: false } });
  const shape = [bytes / 4 / ROW, ROW];
  const wide = graph.op('Expand', [graph.input('x', [1]), graph.integers(shape)], shape);
  const shares = graph.map('Softmax', wide, { attributes: { axis: -1 } });
  const means = graph.op('ReduceMean', [shares, graph.integers([1])], [shape[0]!, 1]);
  graph.output('y', graph.op('ReduceMean', [means, graph.integers([0])], [1, 1]));
  return graph;
}

/** What nvidia-smi says of the first GPU that this process may see, undefined without it. */
async function nvidia(query: string): Promise<string | undefined> {
  const gpu = process.env.CUDA_VISIBLE_DEVICES?.split(',')[0] || '0';
  const options = [`--query-gpu=${query}`, '--format=csv,noheader,nounits', `--id=${gpu}`];
  // It hangs where the driver does.
  return promisify(execFile)('nvidia-smi', options, { timeout: 10 * SECOND, killSignal: 'SIGKILL' }).then(
    ({ stdout }) => stdout.trim() || undefined,
    () => undefined,
  );
}

const GRAPHICS = '/sys/class/drm';
/** A file of Linux's first graphics card that has it. */
function ofGraphicsCard(file: string): string | undefined {
  if (!existsSync(GRAPHICS)) return undefined;
  const paths = readdirSync(GRAPHICS).map((card) => join(GRAPHICS, card, 'device', file));
  const path = paths.find((path) => existsSync(path));
  return path && readFileSync(path, 'utf8').trim();
}

/** Bytes of a GPU's memory that all programs use, undefined without nvidia-smi. */
export async function usedGpuMemory(): Promise<number | undefined> {
  const mebibytes = Number.parseInt((await nvidia('memory.used')) ?? '', 10);
  return Number.isNaN(mebibytes) ? undefined : mebibytes * 2 ** 20;
}

async function gpuName(): Promise<string> {
  const driver = /^DRIVER=(.*)$/m.exec(ofGraphicsCard('uevent') ?? '')?.[1];
  return (await nvidia('name')) ?? (driver ? `GPU of the driver ${driver}` : 'GPU of an unknown name');
}

/** Bytes that are free on the GPU, of AMD's all that it has; Infinity if unknown. */
async function freeGpuMemory(): Promise<number> {
  const mebibytes = Number.parseInt((await nvidia('memory.free')) ?? '', 10);
  if (!Number.isNaN(mebibytes)) return mebibytes * 2 ** 20;
  return Number.parseInt(ofGraphicsCard('mem_info_vram_total') ?? '', 10) || Infinity;
}
