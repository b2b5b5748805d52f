/**
 * On a RunPod pod, from commands.txt: fetches what is missing, CUDA where there is a GPU and the model's weights, then runs the service,
 * for everybody who comes to PORT. A run may be killed at any point: the next one goes on from there.
 *
 * Usage: node infra/image/pod.mjs FOLDER, where FOLDER is for what is to be kept: data and weights
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readConfig } from '../../api/config.ts';
import { ensureWeights } from './ensure-weights.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const GPU = '/dev/nvidiactl'; // there is one in every container that has an NVIDIA GPU

const { env } = process;
const kept = process.argv[2] ?? ROOT;
for (const [name, value] of Object.entries({
  HOST: '0.0.0.0',
  PORT: '5000',
  DATA_DIR: join(kept, 'data'),
  HF_HOME: join(kept, 'huggingface'),
}))
  env[name] ||= value;

let child: ChildProcess | undefined;
// The first process of a container gets no signal that it does not listen to. The service, once it works, has listeners of its own.
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.on(signal, () => {
    if (process.listenerCount(signal) > 1) return;
    child?.kill(signal);
    process.exit(128 + constants.signals[signal]);
  });
try {
  if (!env.RUNPOD_ENDPOINT_ID) await prepareWorker();
} catch (error) {
  console.error((error as Error).message);
  process.exit(1);
}
process.argv[1] = fileURLToPath(new URL('../run/start.ts', import.meta.url)); // as if it had been started itself
await import('../run/start.ts');

async function prepareWorker(): Promise<void> {
  const hasGpu = existsSync(GPU);
  env.MODEL ||= hasGpu ? 'svd_xt' : 'camera';
  const { model } = readConfig({ ...env, RUNPOD_API_KEY: 'none', RUNPOD_ENDPOINT_ID: 'local' }); // wrong variables show before all the fetching
  if (model === 'camera') return;
  if (hasGpu && env.DEVICE !== 'cpu') {
    env.DEVICE ||= 'cuda'; // a GPU that is paid for and can't be used ends the start, rather than being left idle
    await bringCuda();
  }
  await ensureWeights(model, env);
}

async function bringCuda(): Promise<void> {
  if (await succeeds(script('infra/tools/cuda.ts', '--check'), 'ignore')) return;
  if (!(await succeeds(['python3', '-m', 'pip', '--version'], 'ignore'))) {
    await need(['apt-get', 'update', '-qq']);
    await need(['apt-get', 'install', '-qq', '--no-install-recommends', 'python3-pip']);
  }
  await need(script('infra/tools/cuda.ts'));
}

function script(path: string, ...args: string[]): string[] {
  return [process.execPath, '--import', 'tsx', path, ...args];
}

/** Where it fails it has said why, and all ends. */
async function need(command: string[]): Promise<void> {
  if (!(await succeeds(command, 'inherit'))) process.exit(1);
}

function succeeds([program, ...args]: string[], output: 'inherit' | 'ignore'): Promise<boolean> {
  return new Promise((resolve) => {
    child = spawn(program!, args, { cwd: ROOT, stdio: ['ignore', output, output] });
    child.once('error', () => resolve(false)); // there is no such program
    child.once('exit', (code) => resolve(code === 0));
  });
}
