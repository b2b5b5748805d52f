/** Work in a process of its own: a GPU's driver may crash there or never return, and the caller goes on. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { SECOND } from '../core/time.ts';

export interface ProgramOptions<Message> {
  env: NodeJS.ProcessEnv;
  /** kills the process */
  signal: AbortSignal;
  onMessage: (message: Message) => void;
}

/** Programs are TypeScript or JavaScript, like this module. */
const extension = extname(import.meta.url);
/** A process in a call of the system's kernel does not end when it is killed. */
const KILL_TIMEOUT = 5 * SECOND;
/** A thread, because a driver may block the main one. A process whose parent has ended gets another one, except on Windows. */
const END_WITH_PARENT = `
  const { workerData: parent } = require('node:worker_threads');
  setInterval(() => process.ppid === parent || process.kill(process.pid, 'SIGKILL'), ${SECOND});`;

/**
 * Runs a program that calls `doTask`.
 * @param program of its module, without the extension
 * @returns undefined if it ended with 0, else what ended it: a signal such as `SIGSEGV`, or `status 1`
 * @throws AbortError; Error: it could not be started
 */
export async function runProgram<Message>(
  program: URL,
  task: object,
  { env, signal, onMessage }: ProgramOptions<Message>,
): Promise<string | undefined> {
  signal.throwIfAborted();
  const child = fork(fileURLToPath(program) + extension, {
    env,
    execArgv: extension === '.ts' ? ['--import', 'tsx'] : [],
    serialization: 'advanced', // memory may be infinite
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'], // drivers write to standard output
  });
  const leave = () => {
    child.unref();
    child.channel?.unref();
  };
  child.on('message', onMessage);
  child.send(task, () => {}); // if it has ended already, its exit says so
  try {
    const ended = Promise.all([once(child, 'exit', { signal }), once(child, 'disconnect', { signal })]);
    const [[code, killed]] = await ended;
    return code === 0 ? undefined : (killed ?? `status ${code}`);
  } catch (error) {
    // A blocked process handles no other signal.
    if (child.kill('SIGKILL')) await once(child, 'exit', { signal: AbortSignal.timeout(KILL_TIMEOUT) }).catch(leave);
    throw error;
  }
}

/** In a program: does the task of its first message, and ends. It also ends when its parent does. */
export function doTask<Task, Message>(
  work: (task: Task, send: (message: Message) => Promise<void>) => Promise<void>,
): void {
  const watch = new Worker(END_WITH_PARENT, { eval: true, workerData: process.ppid, execArgv: [] });
  const watching = once(watch, 'online'); // a thread does not start while the main one is blocked
  process.once('disconnect', () => process.exit(1));
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => {}); // a whole group gets them, and the parent decides
  process.once('message', async (task: Task) => {
    await watching;
    await work(task, (message) => new Promise((resolve) => process.send!(message, () => resolve())));
    process.exit(0); // a driver's threads may keep it alive
  });
}
