import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { openSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { JobOutput } from '../../core/job.ts';
import { MINUTE, SECOND } from '../../core/time.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
/** Before a restart; doubled after each death, until a child has lived for `reset`. */
const PAUSE = { first: SECOND / 4, max: 30 * SECOND, reset: MINUTE };
/** Children are TypeScript or JavaScript, like this module. */
const { extension, flags } = import.meta.url.endsWith('.ts')
  ? { extension: '.ts', flags: ['--import', 'tsx'] }
  : { extension: '.js', flags: [] };
const MAX_ERROR_LENGTH = 2000; // characters

interface FirstMessage {
  /** of the API, for callers */
  url?: string;
  /** what the worker's networks run on, if its model has any */
  device?: JobOutput['device'];
}

export interface ChildOptions {
  name: string;
  /** Its program's path from the repository's root, without the extension. */
  entry: string;
  /** Called before each start. */
  env: () => NodeJS.ProcessEnv;
  /** Where its standard output goes instead of this process's. Its standard error follows only while it runs. */
  logFile?: string | undefined;
  /** Between SIGTERM and SIGKILL, in milliseconds. */
  gracePeriod: number;
}

/**
 * Keeps a child process running. It is starting until its first message, then running. A death while starting is final: `ready`
 * rejects with its standard error. After a later one the child is restarted, until `stop`.
 */
export function supervise({ name, entry, env, logFile, gracePeriod }: ChildOptions) {
  let child: ChildProcess;
  let state: 'starting' | 'running' | 'stopping' = 'starting';
  const stdout = logFile ? openSync(logFile, 'a') : 'inherit';
  let pause = PAUSE.first;

  const ready = new Promise<FirstMessage>((resolve, reject) => {
    function start() {
      const startedAt = performance.now();
      let errors = '';
      child = spawn(process.execPath, [...flags, entry + extension], {
        cwd: ROOT,
        env: env(),
        stdio: ['ignore', stdout, 'pipe', 'ipc'],
      });
      child.stderr!.setEncoding('utf8').on('data', (text: string) => {
        errors = (errors + text).slice(-MAX_ERROR_LENGTH);
        if (state === 'running' || !logFile) process.stderr.write(text);
      });
      child.once('message', (message: FirstMessage) => {
        if (state === 'starting') state = 'running';
        resolve(message);
      });
      child.once('exit', async (code, signal) => {
        const death = `${name}: ended with ${signal ?? code}`;
        if (state === 'starting') reject(new Error(errors.trim() || death));
        if (state !== 'running') return;
        if (performance.now() - startedAt > PAUSE.reset) pause = PAUSE.first;
        console.error(`${death}; restarting in ${pause / SECOND} s`);
        await delay(pause);
        pause = Math.min(PAUSE.max, 2 * pause);
        if (state === 'running') start();
      });
    }
    start();
  });

  return {
    /** Resolves with the child's first message. */
    ready,
    /** Of the current child. */
    pid: () => child.pid!,
    async stop() {
      state = 'stopping';
      if (child.exitCode !== null || child.signalCode !== null) return;
      const exited = once(child, 'exit');
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), gracePeriod);
      await exited;
      clearTimeout(timer);
    },
  };
}
