/** Runs the measurements of one device in a process, within a time. */
import { SECOND } from '../../core/time.ts';
import { runProgram } from '../../handler/child-program.ts';
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

const PROGRAM = new URL('device-measure', import.meta.url);

/** What was measured before a crash, the deadline or the signal is kept. */
export async function measureInProcess(
  task: Task,
  { env, deadline, signal, onStep }: ProcessOptions,
): Promise<Outcome> {
  const measured: Measurements = {};
  const missing: Outcome['missing'] = Object.fromEntries(STEPS[task.kind].map((step) => [step, '']));
  const memory: Outcome['memory'] = { resident: null, gpu: null };
  const before = await usedGpuMemory();
  const onMessage = (report: Report) => {
    if ('begins' in report) onStep(report.begins);
    else if ('measured' in report) {
      Object.assign(measured, report.measured);
      memory.resident = report.peak;
    } else if (report.error) missing[report.ends] = report.error;
    else delete missing[report.ends];
  };
  const poll = setInterval(async () => {
    const used = await usedGpuMemory();
    if (used !== undefined && before !== undefined) memory.gpu = Math.max(memory.gpu ?? 0, used - before);
  }, SECOND);
  const timeout = AbortSignal.timeout(Math.max(0, Math.round(deadline - performance.now())));
  let reason: string;
  try {
    const ended = await runProgram(PROGRAM, task, { env, signal: AbortSignal.any([signal, timeout]), onMessage });
    reason = ended ? `its process ended with ${ended}` : 'a step before it has failed';
  } catch (error) {
    if (!signal.aborted && !timeout.aborted) throw error;
    reason = signal.aborted ? 'it was stopped' : 'the time was up';
  } finally {
    clearInterval(poll);
  }
  for (const [step, error] of Object.entries(missing)) missing[step as Step] = error || reason;
  return { measured, missing, memory };
}
