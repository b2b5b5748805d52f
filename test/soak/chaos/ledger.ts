/** What everybody has seen in a chaos trial, and whether it fits together. */

import { LOST_AFTER } from '../../../api/tasks/transition.ts';
import type { PresentedTask } from '../../../core/responses.ts';
import { SECOND } from '../../../core/time.ts';
import type { Process } from '../../e2e/fault-injection.ts';
import type { Owner } from './owners.ts';

/** What a caller wants, and how it learns of the end. */
export interface Plan {
  /** who pays: where there was not money enough, somebody else than had posted it first */
  owner: Owner;
  kind: 'prompt' | 'banned' | 'picture';
  /** videos */
  columns: number;
  /** whether the end is announced to a webhook */
  hook: boolean;
  hears: 'by polling' | 'by events' | 'by its webhook';
  cancels: 'at once' | 'while it runs' | undefined;
}

/** A job that RunPod was given. */
export interface Submission {
  task: string;
  job: string;
  api: Process;
  /** by the fast clock */
  at: number;
  /** whether its answer got through */
  answered: boolean;
  /** whether the API has been shown it since */
  looked: boolean;
  /** whether RunPod has said last that it does not know it */
  unknown: boolean;
}

export type Counts = Record<string, number>;
export const count = (counts: Counts, name: string | number, by = 1) => {
  counts[name] = (counts[name] ?? 0) + by;
};

export const isEnded = ({ status }: Pick<PresentedTask, 'status'>) => status !== 'queued' && status !== 'running';
export const keyOf = (link: string) => new URL(link).pathname.split('/files/')[1]!;
export const howEnded = ({ status, error }: PresentedTask) => `${status} ${error?.code ?? ''}`.trim();
export const filesOf = ({ videos, grid }: PresentedTask) => [...(videos ?? []), ...(grid ? [grid] : [])];

/** What must never change once a task has ended. */
const resultOf = (task: PresentedTask) =>
  [
    howEnded(task),
    task.finished_at,
    JSON.stringify(task.cost),
    ...filesOf(task).map(({ link, sha256 }) => `${keyOf(link)} ${sha256}`),
  ].join(' ');

export type Ledger = ReturnType<typeof createLedger>;

/** @param onChange called when somebody has seen something */
export function createLedger(onChange: () => void) {
  const results = new Map<string, { is: string; by: string; at: number }>();
  const submissions = new Map<string, Submission>();
  const deliveries = new Map<string, { ids: Set<string>; types: Set<string>; heard: number }>();
  const found: string[] = [];
  const further: Counts = {};
  const ofTask = (id: string) => [...submissions.values()].filter(({ task }) => task === id);
  const find = (what: string) => void (found.includes(what) || found.push(what));

  return {
    /** of each task that was accepted */
    plans: new Map<string, Plan>(),
    /** whose owners have asked for that, whatever the answer */
    cancelled: new Set<string>(),
    /** processes that were killed */
    killed: new Set<Process>(),
    deliveries,
    submissions,
    /** submissions of a task after its first, by what led to them */
    further,
    /** what should not have happened */
    found,
    find,
    ofTask,
    hasEnded: (id: string) => results.has(id),
    ended: () => results.size,

    /**
     * Somebody was shown the task.
     * @param asked when, by performance.now(): an answer that was on its way already may be older than an end that is known
     */
    see(task: PresentedTask, by: string, asked: number): void {
      const known = results.get(task.id);
      const is = resultOf(task);
      const mayBeOlder = !isEnded(task) && known && asked < known.at;
      if (known && known.is !== is && !mayBeOlder) find(`${task.id}: ${known.by} saw ${known.is}; ${by} ${is}`);
      if (!known && isEnded(task)) results.set(task.id, { is, by, at: performance.now() });
      onChange();
    },

    /** RunPod has made a job. Beside others of the task there may be one only for a reason. */
    submitted(job: Submission, killed: Set<Process>): void {
      for (const { job: earlier, api, at, answered, looked, unknown } of ofTask(job.task)) {
        let reason: string | undefined;
        if (unknown && job.at - at > LOST_AFTER - 2 * SECOND) reason = 'forgotten';
        else if (!looked && killed.has(api)) reason = 'killed amid a submission';
        else if (!looked && !answered) reason = 'answer lost';
        if (reason) count(further, reason);
        else find(`${job.task} was submitted again beside ${earlier}, of which ${api.id} knew`);
      }
      submissions.set(job.job, job);
    },

    /** A webhook came. @returns whether it is the first of its task */
    announced(task: PresentedTask, type: string, id: string): boolean {
      const known = deliveries.get(task.id);
      const { ids, types } = known ?? { ids: new Set(), types: new Set() };
      deliveries.set(task.id, { ids: ids.add(id), types: types.add(type), heard: known?.heard ?? 0 });
      return known === undefined;
    },
  };
}
