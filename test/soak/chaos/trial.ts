/** What all parts of a chaos trial share: its API keys, what is known of each task, and what should not have happened. */
import { newWebhookSecret } from '../../../api/keys/key-value.ts';
import { openStore } from '../../../api/store/store.ts';
import { LOST_AFTER } from '../../../api/tasks/job-transitions.ts';
import type { PresentedTask } from '../../../core/responses.ts';
import { isActive } from '../../../core/task-status.ts';
import { SECOND } from '../../../core/time.ts';
import type { Harness, TestJob } from '../../e2e/harness.ts';
import { makeKey } from '../../support/test-api.ts';
import { wasAhead } from './clock-jumps.mjs';

export type Counts = Record<string, number>;
export const count = (counts: Counts, name: string | number) => {
  counts[name] = (counts[name] ?? 0) + 1;
};

/** Micro-units. As long as no task has ended, 71,235 are reserved for a task, and 30,011 more if it has a prompt. */
const BUDGETS = { unbounded: null, tight: 11_000, ample: 100_000_000 };

/** Makes the API keys, before any API process runs. The first one has no budget, the second one little money. */
export async function makeOwners(databaseUrl: string) {
  const store = await openStore(databaseUrl);
  const owners = [];
  for (const [name, budget] of Object.entries<number | null>(BUDGETS)) {
    const secret = newWebhookSecret();
    const { id, headers } = await makeKey(store, { name, budget, webhook_secret: secret });
    owners.push({ name, id, budget, headers, secret, refused: 0 }); // posts that were answered 402
  }
  await store.close();
  return owners;
}
export type Owner = Awaited<ReturnType<typeof makeOwners>>[number];

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

/** All that callers and the webhook receiver have seen of a task. RunPod's side is in the harness: see `Trial.jobsOf`. */
export interface TaskRecord {
  id: string;
  /** absent until the post is accepted */
  plan?: Plan;
  /** whether its owner has sent a cancel request, even one without an answer */
  isCancelled: boolean;
  webhooks: { ids: Set<string>; types: Set<string>; attempts: number; accepted: number };
  /** the ended task as it was presented last; who saw the end first, and when by performance.now() */
  end?: { task: PresentedTask; by: string; at: number };
}

export type AcceptedTask = TaskRecord & { plan: Plan };

export const isEnded = ({ status }: PresentedTask) => !isActive(status);
export const keyOf = (link: string) => new URL(link).pathname.split('/files/')[1]!;
export const formatEnd = ({ status, error }: PresentedTask) => `${status} ${error?.code ?? ''}`.trim();
export const filesOf = <File>({ videos, grid }: { videos?: File[] | undefined; grid?: File | undefined }) => [
  ...(videos ?? []),
  ...(grid ? [grid] : []),
];

/** What must never change once a task has ended. */
const formatResult = (task: PresentedTask) =>
  [
    formatEnd(task),
    task.finished_at,
    JSON.stringify(task.cost),
    ...filesOf(task).map(({ link, sha256 }) => `${keyOf(link)} ${sha256}`),
  ].join(' ');

export class Trial {
  readonly records = new Map<string, TaskRecord>();
  /** aborted when the trial is over, also if it failed */
  readonly over = new AbortController();
  /** posts that broke off */
  brokenPosts = 0;
  /** submissions of a task after its first, by their reason */
  readonly resubmissions: Counts = {};
  /** jobs that a later one has replaced */
  readonly #replaced = new Set<TestJob>();
  /** what should not have happened */
  readonly violations: string[] = [];

  /**
   * @param stream gives random numbers for one purpose, so that one more for one purpose leaves the others as they are
   * @param realTime the real time at one of the fast clock's; milliseconds
   */
  constructor(
    readonly harness: Harness,
    readonly owners: Owner[],
    readonly stream: (purpose: string) => () => number,
    readonly realTime: (ms: number) => number,
  ) {}

  readonly addViolation = (text: string): void => {
    if (!this.violations.includes(text)) this.violations.push(text);
  };

  recordOf(id: string): TaskRecord {
    const webhooks = { ids: new Set<string>(), types: new Set<string>(), attempts: 0, accepted: 0 };
    const record = this.records.get(id) ?? { id, isCancelled: false, webhooks };
    this.records.set(id, record);
    return record;
  }

  /** The tasks that were accepted, all of them or an owner's. */
  accepted = (of?: Owner): AcceptedTask[] =>
    [...this.records.values()].filter((one): one is AcceptedTask => !!one.plan && (!of || one.plan.owner === of));

  /** The tasks that have ended, all of them or an owner's. */
  endedTasks = (of?: Owner): PresentedTask[] => this.accepted(of).flatMap(({ end }) => end?.task ?? []);

  /** RunPod's jobs of a task. */
  jobsOf = (id: string) => [...this.harness.jobs.values()].filter(({ taskId }) => taskId === id);

  /** Workers that were killed and had been given a job of the task. */
  deadWorkersOf(id: string) {
    const hadJob = (worker: string) => this.jobsOf(id).some((job) => this.harness.wasGivenTo(worker, job.id));
    return this.harness.workers.filter((worker) => worker.wasKilled() && hadJob(worker.id));
  }

  /**
   * Notes the task of an answer.
   * @param askedAt by performance.now(): an answer that was on its way may be older than an end that is already known
   */
  seeTask(task: PresentedTask, by: string, askedAt: number): void {
    const record = this.recordOf(task.id);
    const { end } = record;
    const [known, seen] = [end && formatResult(end.task), formatResult(task)];
    if (end && known !== seen && (isEnded(task) || askedAt >= end.at))
      this.addViolation(`${task.id}: ${end.by} saw ${known}; ${by} ${seen}`);
    if (isEnded(task)) record.end = { by, at: performance.now(), ...end, task };
    this.harness.notifyChange();
  }

  /**
   * Checks a new job of RunPod: a task may have a further one only for a reason. The reason to replace a job holds for good: the job may be
   * seen again later, when it calls back.
   */
  checkSubmission(job: TestJob): void {
    for (const earlier of this.jobsOf(job.taskId).filter((one) => one !== job && !this.#replaced.has(one))) {
      const { submittedBy, answered, statusSeen, unknown } = earlier;
      let reason: string | undefined;
      if (unknown && job.createdAt - earlier.createdAt > LOST_AFTER - 2 * SECOND) reason = 'forgotten';
      else if (!statusSeen && submittedBy?.wasKilled()) reason = 'killed during a submission';
      else if (!statusSeen && !answered) reason = 'answer lost';
      else if (wasAhead(earlier.createdAt, job.createdAt)) reason = 'the clock was ahead'; // a lease or a job's time was over
      if (!reason) {
        this.addViolation(
          `${job.taskId} was submitted again though ${submittedBy?.id} knew of ${earlier.id}: ${this.describeJobs(job.taskId)}`,
        );
        continue;
      }
      this.#replaced.add(earlier);
      count(this.resubmissions, reason);
    }
  }

  /** All that is known of a task's jobs, as JSON. */
  describeJobs = (taskId: string): string =>
    JSON.stringify(
      this.jobsOf(taskId).map(({ submittedBy, ...job }) => ({
        ...job,
        submittedBy: submittedBy && { id: submittedBy.id, wasKilled: submittedBy.wasKilled() },
        is: this.harness.statusOf({ ...job, submittedBy }),
      })),
    );
}
