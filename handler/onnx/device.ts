/** The device that the networks run on, and its memory. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { totalmem } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { createGraph } from './graph.ts';
import type { Device } from './policy.ts';
import { CUDA_PROVIDER, providerFolder } from './provider.ts';
import { NO_WEIGHTS } from './safetensors.ts';
import { openSession } from './session.ts';

export interface ChosenDevice {
  device: Device;
  /** bytes that may be used, Infinity if unknown */
  memory: number;
  /** why it was chosen, as text for the log */
  reason: string;
}

/**
 * @param wanted auto: CUDA if onnxruntime’s CUDA provider and a GPU are available, else the processor
 * @throws Error of one line: cuda is wanted and does not work
 */
export async function chooseDevice(wanted: 'auto' | 'cpu' | 'cuda'): Promise<ChosenDevice> {
  const cpu = (reason: string): ChosenDevice => ({ device: 'cpu', memory: usableMemory(), reason });
  if (wanted === 'cpu') return cpu('DEVICE is cpu');
  const obstacle = await cudaObstacle();
  if (!obstacle) {
    const reason = wanted === 'cuda' ? 'DEVICE is cuda' : 'onnxruntime’s CUDA provider and a GPU are available';
    return { device: 'cuda', memory: await freeGpuMemory(), reason };
  }
  if (wanted === 'cuda') throw new Error(`DEVICE is cuda, but ${obstacle}`);
  return cpu(obstacle);
}

/**
 * Bytes: 85 % of the memory of machine or container, or what is free if that is less. A fixed share, so that a job's result, which
 * depends on it, is the same after a restart.
 */
export function usableMemory(): number {
  const limit = Math.min(totalmem(), process.constrainedMemory() || Infinity);
  return Math.min(0.85 * limit, process.availableMemory());
}

/** Why CUDA can't be used, or undefined. The only proof is a graph that runs. */
async function cudaObstacle(): Promise<string | undefined> {
  if (!existsSync(join(providerFolder, CUDA_PROVIDER)))
    return 'onnxruntime’s CUDA provider is not installed (run npm run cuda)';
  try {
    const graph = createGraph(NO_WEIGHTS, { policy: 'cuda' });
    graph.output('y', graph.map('Sigmoid', graph.input('x', [1])));
    const session = await openSession(graph);
    await session.run({ x: new Float32Array(1) });
    await session.close();
    return undefined;
  } catch (error) {
    const { message } = error as Error;
    return `CUDA does not start: ${/CUDA failure[^;]*/.exec(message)?.[0].trim() ?? message.split('\n')[0]}`;
  }
}

/** Bytes that are free on the first GPU that this process may see, Infinity if unknown. */
async function freeGpuMemory(): Promise<number> {
  const gpu = process.env.CUDA_VISIBLE_DEVICES?.split(',')[0] || '0';
  const query = ['--query-gpu=memory.free', '--format=csv,noheader,nounits', `--id=${gpu}`];
  const mebibytes = await promisify(execFile)('nvidia-smi', query).then(
    ({ stdout }) => Number.parseInt(stdout, 10),
    () => Number.NaN,
  );
  return Number.isNaN(mebibytes) ? Infinity : mebibytes * 2 ** 20;
}
