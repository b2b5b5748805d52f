/** Runs the measurements of one device in a process, within a time. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { SECOND } from '../../core/time.ts';
import { usedGpuMemory } from '../../handler/onnx/device.ts';
import { type Measurements, type Report, STEPS, type Step, type Task } from './device-measure.ts';

export interface Outcome {
  measured: Measurements;
  /** the steps that were not completed, and why */
  missing: Partial<Record<Step, string>>;
  /** bytes: the process's largest resident memory, and by how much the memory in use of a GPU grew; null if unknown */
  memory: { resident: number | null; gpu: number | null };
}

export interface ProcessOptions {
  env: NodeJS.ProcessEnv;
  /** of performance.now(), when it is ended */
  deadline: number;
  signal: AbortSignal;
  onStep: (step: Step) => void;
}

/** The program is TypeScript or JavaScript, like this module. */
const extension = extname(import.meta.url);
const PROGRAM = fileURLToPath(new URL(`device-measure${extension}`, import.meta.url));

/** What was measured before a crash, the deadline or the signal is kept. */
export async function measureInProcess(
  task: Task,
  { env, deadline, signal, onStep }: ProcessOptions,
): Promise<Outcome> {
  const measured: Measurements = {};
  const missing: Outcome['missing'] = Object.fromEntries(STEPS[task.kind].map((step) => [step, '']));
  const memory: Outcome['memory'] = { resident: null, gpu: null };
  const before = await usedGpuMemory();
  const child = fork(PROGRAM, {
    env,
    execArgv: extension === '.ts' ? ['--import', 'tsx'] : [],
    serialization: 'advanced', // memory may be infinite
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'], // drivers write to standard output
  });
  child.on('message', (report: Report) => {
    if ('begins' in report) onStep(report.begins);
    else if ('measured' in report) {
      Object.assign(measured, report.measured);
      memory.resident = report.peak;
    } else if (report.error) missing[report.ends] = report.error;
    else delete missing[report.ends];
  });
  let reason: string | undefined;
  const end = (why: string) => {
    reason = why;
    child.kill('SIGKILL'); // a run in it does not let it answer
  };
  const onAbort = () => end('it was stopped');
  if (signal.aborted) onAbort();
  else signal.addEventListener('abort', onAbort);
  const timeout = setTimeout(() => end('the time was up'), deadline - performance.now());
  const poll = setInterval(async () => {
    const used = await usedGpuMemory();
    if (used !== undefined && before !== undefined) memory.gpu = Math.max(memory.gpu ?? 0, used - before);
  }, SECOND);
  try {
    child.send(task, () => {}); // if it has ended already, its exit says so
    const [[code, killed]] = await Promise.all([once(child, 'exit'), once(child, 'disconnect')]);
    reason ??= code === 0 ? 'a step before it has failed' : `its process ended with ${killed ?? code}`;
  } finally {
    clearTimeout(timeout);
    clearInterval(poll);
    signal.removeEventListener('abort', onAbort);
  }
  for (const [step, error] of Object.entries(missing)) missing[step as Step] = error || reason!;
  return { measured, missing, memory };
}
