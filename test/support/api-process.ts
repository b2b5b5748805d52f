import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { freePort } from '../../infra/run/free-port.ts';
import { programArgs } from './programs.ts';

interface ApiProcessOptions {
  /** the program, from the repository's root; default: the API */
  entry?: string;
  dataDir: string;
  runpod: { url: string; apiKey: string };
  env?: Record<string, string>;
  /** default: ignore */
  stdout?: 'ignore' | 'pipe';
}

export type ApiProcess = Awaited<ReturnType<typeof startApi>>;

/** Starts the API, or a program that replaces it, on a free port of 127.0.0.1. @throws Error if it ends before it listens */
export async function startApi({ entry = 'api/index.ts', dataDir, runpod, env, stdout = 'ignore' }: ApiProcessOptions) {
  const port = await freePort();
  const child: ChildProcess = spawn(process.execPath, programArgs(entry), {
    cwd: fileURLToPath(new URL('../..', import.meta.url)),
    env: {
      PATH: process.env.PATH,
      PORT: String(port),
      DATA_DIR: dataDir,
      MODEL: 'camera',
      RUNPOD_API_KEY: runpod.apiKey,
      RUNPOD_ENDPOINT_ID: 'ep',
      RUNPOD_BASE_URL: runpod.url,
      ...env,
    },
    stdio: ['ignore', stdout, 'inherit', 'ipc'],
  });
  const exited = once(child, 'exit');
  const [message] = await Promise.race([once(child, 'message'), exited]);
  if (message?.event !== 'listening') throw new Error(`${entry} ended before it listened`);
  return { url: `http://127.0.0.1:${port}`, port, child, exited };
}
