/**
 * Advances tasks, each by one step at a time. Only the holder of a task's lease advances it, from before it asks RunPod until the answer
 * is stored. The states of a task in this process:
 *
 *   idle ──run()──▶ leased by us ──step──▶ stored, or changed by another process ──run() meanwhile──▶ leased by us again
 *     ▲                                      │
 *     └──────────────────────────────────────┘
 */
import { setTimeout as delay } from 'node:timers/promises';
import { SECOND } from '../../core/time.ts';
import type { Dependencies } from '../dependencies.ts';
import type { Store } from '../store/store.ts';
import { endsTask, type Task } from '../store/task.ts';
import { backoff } from './job-transitions.ts';
import { LEASE, saveChanges } from './save-changes.ts';
import type { Step } from './step.ts';

export interface RunnerOptions extends Pick<Dependencies, 'log' | 'now'> {
  store: Pick<Store, 'claim' | 'release' | 'update' | 'get'>;
  step: Step;
  /** milliseconds until the next step of an active task */
  pollDelay: (task: Task) => number;
  /** how long after a task's end its files and prompt are kept; milliseconds */
  retain: number;
  /** called after a change is stored */
  afterCommit: (task: Task, before: Task) => void;
  /** called when this process has no more to do for a task now */
  onIdle: () => void;
}

interface ActiveTask {
  /** whether `run` was called since the last step began */
  again: boolean;
  /** the task under a lease of ours, for the first step */
  claimed: Task | undefined;
  /** jobs from callbacks, which the task may not know */
  unknownJobs: string[];
  done: Promise<void>;
}

export function createRunner(options: RunnerOptions) {
  const { store, step, pollDelay, retain, afterCommit, onIdle, log, now } = options;
  const activeTasks = new Map<string, ActiveTask>();
  const stopping = new AbortController();

  /**
   * Advances a task now, or once more if this process is just doing that. Does nothing if another process has the lease, or if the task
   * waits for a job and is not `claimed`.
   */
  function run(id: string, { claimed, unknownJob }: { claimed?: Task; unknownJob?: string } = {}): void {
    if (stopping.signal.aborted) return;
    const known = activeTasks.get(id);
    const active: ActiveTask = known ?? { again: true, claimed: undefined, unknownJobs: [], done: Promise.resolve() };
    active.again = true;
    active.claimed ??= claimed;
    if (unknownJob !== undefined && !active.unknownJobs.includes(unknownJob)) active.unknownJobs.push(unknownJob);
    if (known) return;
    activeTasks.set(id, active);
    active.done = process(id, active);
  }

  async function process(id: string, active: ActiveTask): Promise<void> {
    const until = now() + LEASE;
    while (active.again && !stopping.signal.aborted) {
      const { claimed } = active;
      const unknownJob = active.unknownJobs.shift();
      active.again = active.unknownJobs.length > 0; // before any await: more may come
      active.claimed = undefined;
      const retryIn = await attempt(id, claimed, unknownJob);
      if (unknownJob === undefined || retryIn === 0) continue;
      if (now() > until) log.error({ task: id, job: unknownJob }, 'a job from a callback could not be looked up');
      else {
        await delay(retryIn, undefined, { signal: stopping.signal }).catch(() => undefined);
        run(id, { unknownJob });
      }
    }
    activeTasks.delete(id);
    onIdle();
  }

  /** @returns milliseconds until the next attempt to look up a job from a callback; 0: this one succeeded */
  async function attempt(id: string, claimed: Task | undefined, unknownJob: string | undefined): Promise<number> {
    try {
      const waiting = unknownJob !== undefined;
      const [task] = claimed ? [claimed] : await store.claim([id], { lease: LEASE, waiting });
      if (!task) return SECOND / 5; // another process has the lease
      const updated = await advance(task, unknownJob);
      if (updated) return updated.failures === 0 ? 0 : Math.min(5 * SECOND, backoff(updated.failures));
      await store.release(task); // another process changed it: it may run at once
      return SECOND / 5;
    } catch (error) {
      log.error({ task: id, error }, 'task could not be advanced; will be retried');
      return SECOND;
    }
  }

  /** One step, under a lease of ours. @returns the changed task; undefined: another process has changed it */
  async function advance(task: Task, unknownJob: string | undefined): Promise<Task | undefined> {
    const changes = await step(task, unknownJob);
    const afterEnd = changes.jobs_to_cancel.length > 0 || task.image_key !== null ? 0 : retain;
    const regular = endsTask(task, changes) ? afterEnd : pollDelay(task);
    const nextRunIn = changes.failures ? backoff(changes.failures) : regular;
    const updated = await saveChanges(task, { nextRunIn, ...changes }, { store, log, now, signal: stopping.signal });
    if (updated) afterCommit(updated, task);
    return updated;
  }

  return {
    run,

    /** Resolves when no step is running; none starts any more. */
    async stop(): Promise<void> {
      stopping.abort();
      await Promise.all([...activeTasks.values()].map(({ done }) => done));
    },
  };
}
