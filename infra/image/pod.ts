/**
 * On a RunPod pod, from commands.txt: downloads CUDA, if there is a GPU, and the model's weights, then runs the service on all
 * addresses. It may be killed at any point: the next run continues from there.
 *
 * Usage: node infra/image/pod.mjs FOLDER, where FOLDER keeps the data and the weights
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readConfig } from '../../api/config.ts';
import { ignoreOutputErrors } from '../../core/standard-output.ts';
import { ensureWeights } from './ensure-weights.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const GPU = '/dev/nvidiactl'; // exists in every container with an NVIDIA GPU

ignoreOutputErrors();
const { env } = process;
const folder = process.argv[2] ?? ROOT;
for (const [name, value] of Object.entries({
  HOST: '0.0.0.0',
  PORT: '5000',
  DATA_DIR: join(folder, 'data'),
  HF_HOME: join(folder, 'huggingface'),
}))
  env[name] ||= value;

let child: ChildProcess | undefined;
// The first process of a container gets no signal without a listener. The running service has its own listeners.
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
process.argv[1] = fileURLToPath(new URL('../run/start.ts', import.meta.url)); // as if started directly
await import('../run/start.ts');

async function prepareWorker(): Promise<void> {
  const hasGpu = existsSync(GPU);
  env.MODEL ||= hasGpu ? 'svd_xt' : 'camera';
  const { model } = readConfig({ ...env, RUNPOD_API_KEY: 'none', RUNPOD_ENDPOINT_ID: 'local' }); // reports wrong variables before the downloads
  if (model === 'camera') return;
  if (hasGpu && env.DEVICE !== 'cpu') {
    env.DEVICE ||= 'cuda'; // without a usable GPU the start fails, because the pod would bill an idle one
    await ensureCuda();
  }
  await ensureWeights(model, env);
}

async function ensureCuda(): Promise<void> {
  if (await succeeds(script('infra/tools/cuda.ts', '--check'), 'ignore')) return;
  if (!(await succeeds(['python3', '-m', 'pip', '--version'], 'ignore'))) {
    await runOrExit(['apt-get', 'update', '-qq']);
    await runOrExit(['apt-get', 'install', '-qq', '--no-install-recommends', 'python3-pip']);
  }
  await runOrExit(script('infra/tools/cuda.ts'));
}

function script(path: string, ...args: string[]): string[] {
  return [process.execPath, '--import', 'tsx', path, ...args];
}

/** Ends this process if the command fails, which has then printed why. */
async function runOrExit(command: string[]): Promise<void> {
  if (!(await succeeds(command, 'inherit'))) process.exit(1);
}

function succeeds([program, ...args]: string[], output: 'inherit' | 'ignore'): Promise<boolean> {
  return new Promise((resolve) => {
    child = spawn(program!, args, { cwd: ROOT, stdio: ['ignore', output, output] });
    child.once('error', () => resolve(false)); // no such program
    child.once('exit', (code) => resolve(code === 0));
  });
}
