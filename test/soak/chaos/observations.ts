/** What callers and RunPod have observed in a chaos trial, and which observations contradict each other. */
import { LOST_AFTER } from '../../../api/tasks/transition.ts';
import type { PresentedTask } from '../../../core/responses.ts';
import { isActive } from '../../../core/task-status.ts';
import { SECOND } from '../../../core/time.ts';
import type { TestProcess } from '../../e2e/child-process.ts';
import type { Owner } from './owners.ts';

/** What a caller wants, and how it learns of the end. */
export interface Plan {
  /** who pays: another owner than posted first, where that one had not enough money */
  owner: Owner;
  kind: 'prompt' | 'banned' | 'picture';
  /** videos */
  columns: number;
  hasWebhook: boolean;
  follows: 'by polling' | 'by events' | 'by its webhook';
  cancels: 'at once' | 'while it runs' | undefined;
}

/** A job that RunPod was given. */
export interface Submission {
  task: string;
  job: string;
  api: TestProcess;
  /** by the fast clock */
  at: number;
  /** whether the API got the response */
  answered: boolean;
  /** whether the API has seen the job's status since */
  statusSeen: boolean;
  /** whether RunPod's last answer was that it does not know the job */
  unknown: boolean;
}

/** The webhooks of a task. */
interface Webhooks {
  ids: Set<string>;
  types: Set<string>;
  attempts: number;
  /** attempts that were accepted */
  accepted: number;
}

export type Counts = Record<string, number>;
export const count = (counts: Counts, name: string | number) => {
  counts[name] = (counts[name] ?? 0) + 1;
};

export const isEnded = ({ status }: Pick<PresentedTask, 'status'>) => !isActive(status);
export const keyOf = (link: string) => new URL(link).pathname.split('/files/')[1]!;
export const formatEnd = ({ status, error }: PresentedTask) => `${status} ${error?.code ?? ''}`.trim();
export const filesOf = ({ videos, grid }: PresentedTask) => [...(videos ?? []), ...(grid ? [grid] : [])];

/** What must never change once a task has ended. */
const formatResult = (task: PresentedTask) =>
  [
    formatEnd(task),
    task.finished_at,
    JSON.stringify(task.cost),
    ...filesOf(task).map(({ link, sha256 }) => `${keyOf(link)} ${sha256}`),
  ].join(' ');

export class Observations {
  /** of each accepted task */
  readonly plans = new Map<string, Plan>();
  /** tasks whose owners have asked to cancel them, whatever the answer */
  readonly cancelled = new Set<string>();
  readonly killed = new Set<TestProcess>();
  /** by job */
  readonly submissions = new Map<string, Submission>();
  /** by task */
  readonly webhooks = new Map<string, Webhooks>();
  /** submissions of a task after its first, by their reason */
  readonly resubmissions: Counts = {};
  /** what should not have happened */
  readonly violations: string[] = [];
  readonly #results = new Map<string, { result: string; by: string; at: number }>();

  /** @param notifyChange wakes whoever waits for a condition */
  constructor(readonly notifyChange: () => void) {}

  readonly addViolation = (text: string): void => {
    if (!this.violations.includes(text)) this.violations.push(text);
  };

  readonly submissionsOf = (task: string) => [...this.submissions.values()].filter((one) => one.task === task);
  readonly hasEnded = (task: string) => this.#results.has(task);
  readonly endedCount = () => this.#results.size;

  /**
   * Somebody got the task in an answer.
   * @param askedAt by performance.now(): an answer that was on its way may be older than an end that is already known
   */
  readonly seeTask = (task: PresentedTask, by: string, askedAt: number): void => {
    const known = this.#results.get(task.id);
    const result = formatResult(task);
    const mayBeOlder = !isEnded(task) && known && askedAt < known.at;
    if (known && known.result !== result && !mayBeOlder)
      this.addViolation(`${task.id}: ${known.by} saw ${known.result}; ${by} ${result}`);
    if (!known && isEnded(task)) this.#results.set(task.id, { result, by, at: performance.now() });
    this.notifyChange();
  };

  /** RunPod has made a job. A task may have a further one only for a reason. */
  seeSubmission(job: Submission): void {
    for (const { job: earlier, api, at, answered, statusSeen, unknown } of this.submissionsOf(job.task)) {
      let reason: string | undefined;
      if (unknown && job.at - at > LOST_AFTER - 2 * SECOND) reason = 'forgotten';
      else if (!statusSeen && this.killed.has(api)) reason = 'killed during a submission';
      else if (!statusSeen && !answered) reason = 'answer lost';
      if (reason) count(this.resubmissions, reason);
      else this.addViolation(`${job.task} was submitted again though ${api.id} knew of ${earlier}`);
    }
    this.submissions.set(job.job, job);
  }

  /** A webhook came. @returns all that is known of the task's webhooks, to be updated */
  seeWebhook(task: string, type: string, id: string): Webhooks {
    const webhooks = this.webhooks.get(task) ?? { ids: new Set(), types: new Set(), attempts: 0, accepted: 0 };
    this.webhooks.set(task, webhooks);
    webhooks.ids.add(id);
    webhooks.types.add(type);
    webhooks.attempts++;
    return webhooks;
  }
}
