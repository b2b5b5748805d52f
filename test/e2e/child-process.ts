import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { Stage } from '../../core/job.ts';
import { programArgs } from '../support/programs.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** The fields of a log line that tests read. */
export interface LogLine {
  message: string;
  stage?: Stage;
  requestId?: string;
}

export interface ProcessOptions {
  /** the program, from the repository's root */
  entry: string;
  env: Record<string, string | undefined>;
  /** modules that are loaded before it */
  preload?: string[];
  /** the message that it logs when it is ready */
  ready: string;
  onLine?: (line: LogLine) => void;
  /** called after every line and at the end */
  onChange: () => void;
}

export type TestProcess = ReturnType<typeof startProcess>;

/** Starts a program of ours in its own process group, by which every process that it starts can be found. */
export function startProcess(id: string, { entry, env, preload = [], ready, onLine, onChange }: ProcessOptions) {
  const imports = preload.flatMap((module) => ['--import', module]);
  const child = spawn(process.execPath, [...imports, ...programArgs(entry)], {
    cwd: ROOT,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'], // the channel closes when this process ends
    env: { PATH: process.env.PATH, ...env },
  });
  const lines: string[] = [];
  let isReady = false;
  let wasKilled = false;
  let errors = '';
  let exit: { code: number | null; signal: string | null } | undefined;
  createInterface({ input: child.stdout! }).on('line', (text) => {
    const line: LogLine = text.startsWith('{') ? JSON.parse(text) : { message: text };
    lines.push(text);
    if (lines.length > 20) lines.shift();
    isReady ||= line.message === ready;
    onLine?.(line);
    onChange();
  });
  child.stderr!.setEncoding('utf8').on('data', (text) => {
    errors = (errors + text).slice(-2000);
  });
  const closed = once(child, 'close').then(([code, signal]) => {
    exit = { code, signal };
    onChange();
  });
  return {
    id,
    closed,
    /** Whether it can be asked to end. */
    isReady: () => isReady,
    isAlive: () => exit === undefined,
    exit: () => exit,
    kill(signal: 'SIGTERM' | 'SIGKILL') {
      wasKilled ||= signal === 'SIGKILL';
      child.kill(signal);
    },
    wasKilled: () => wasKilled,
    /** Closes the pipes that it logs to. */
    closeOutput() {
      child.stdout!.destroy();
      child.stderr!.destroy();
    },
    /** The end of its log and of its standard error. */
    logTail: () => [...lines, errors].join('\n'),
    /** Whether a process of its group is still alive. */
    isGroupAlive() {
      try {
        return process.kill(-child.pid!, 0);
      } catch {
        return false; // no such group
      }
    },
  };
}
