import { type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { SECOND } from '../../core/time.ts';

const START_TIMEOUT = 30 * SECOND;
const POLL_INTERVAL = 20;

/**
 * Runs a server program until `stop`, or until this process exits.
 * @param isReady called every 20 ms; a rejection counts as false
 * @param killSignal ends the program at once
 * @throws Error with the program's output, if it exits early or is not ready after 30 s
 */
export async function startProgram(
  command: string,
  args: string[],
  { isReady, killSignal, ...options }: SpawnOptions & { isReady: () => Promise<unknown>; killSignal: NodeJS.Signals },
) {
  const child = spawn(command, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout!, child.stderr!])
    stream.on('data', (text) => (output = (output + text).slice(-5000)));
  let hasExited = false;
  const exited = once(child, 'exit')
    .catch((error) => (output += error)) // it could not be started
    .then(() => (hasExited = true));
  const kill = () => child.kill(killSignal);
  process.once('exit', kill);
  const deadline = Date.now() + START_TIMEOUT;
  while (!(await isReady().catch(() => false))) {
    if (hasExited || Date.now() > deadline) {
      kill();
      throw new Error(`${command} did not start: ${output}`);
    }
    await delay(POLL_INTERVAL);
  }
  return {
    async stop() {
      kill();
      process.off('exit', kill);
      await exited;
    },
  };
}
