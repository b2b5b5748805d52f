/** For tests and benchmarks: the API, or a program that stands in for it, as a process of its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { freePort } from '../../infra/run/free-port.ts';

export interface ApiProcessOptions {
  /** of the program, from the repository's root */
  entry?: string;
  dataDir: string;
  runpod: { url: string; apiKey: string };
  env?: Record<string, string>;
  /** what becomes of its log */
  stdout?: 'ignore' | 'pipe';
}

export type ApiProcess = Awaited<ReturnType<typeof startApi>>;

/** On a free port of 127.0.0.1, once it listens. @throws Error if it ends before that */
export async function startApi({ entry = 'api/index.ts', dataDir, runpod, env, stdout = 'ignore' }: ApiProcessOptions) {
  const port = await freePort();
  const child: ChildProcess = spawn(process.execPath, ['--import', 'tsx', entry], {
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
  const [word] = await Promise.race([once(child, 'message'), exited]);
  if (word?.event !== 'listening') throw new Error(`${entry} ended before it listened`);
  return { url: `http://127.0.0.1:${port}`, port, child, exited };
}
