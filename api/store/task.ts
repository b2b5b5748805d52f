/** A task as the store keeps it, and what may be changed of it. */
import type { JobErrorData, JobOutput, Stage } from '../../core/job.ts';
import type { Input } from '../../core/parameters.ts';
import type { ModelName } from '../../core/presets.ts';
import type { FieldNote } from '../../core/request.ts';
import { type Cost, isActive, type TaskStatus } from '../../core/responses.ts';

/**
 * A task as it is kept. Times are milliseconds since 1970: by the API's clock where callers see them, by the database's where replicas
 * must agree (`next_run_at`, `leased_until`). Those are set as times from now.
 */
export interface Task {
  /** UUIDv7: ids sort by creation */
  id: string;
  /** id of the key that created it; 'local' where there are no keys */
  owner: string;
  /** the caller's word for this request, if it gave one; unique to the owner, and freed a day later */
  idempotency_key: string | null;
  /** of what was asked for with it */
  idempotency_hash: string | null;
  status: TaskStatus;
  stage: Stage | null;
  /** of the stage: the sampling step or the frame that is done, and how many there are */
  step: number | null;
  steps: number | null;
  /** 0–1, never falls */
  progress: number;
  created_at: number;
  started_at: number | null;
  finished_at: number | null;
  model: ModelName;
  input: Input;
  warnings: FieldNote[];
  /** bucket key of the picture that came with the request */
  image_key: string | null;
  /** bucket key of an earlier task's picture */
  source_key: string | null;
  /** bucket key of the still, once there is one */
  still: string | null;
  output: JobOutput | null;
  error: JobErrorData | null;
  /** in the address that RunPod calls back */
  callback_token: string;
  /** RunPod's id of the job that is out for this task */
  job_id: string | null;
  submitted_at: number | null;
  /** jobs submitted so far */
  jobs: number;
  /** attempts to reach RunPod that failed in a row */
  failures: number;
  /** when the task is to be looked at next, not before its lease is over; NEVER: nothing is left to do */
  next_run_at: number;
  /** until when one process alone may submit it or look at it; 0: nobody has it. The number also tells one lease from the next */
  leased_until: number;
  /** what was agreed on its price; null where it is from a time without prices */
  quote: Quote | null;
  /** what it has cost, once it has ended */
  cost: Cost | null;
  /** when a caller asked to cancel it while it ran; RunPod's word is awaited */
  cancel_requested_at: number | null;
  /** RunPod's ids of jobs that nobody wants any more and that are still to be cancelled there */
  jobs_to_cancel: string[];
  /** when its files and prompt were deleted, or began to be */
  expired_at: number | null;
  /** counts changes and leases: each update names the version that it changes */
  version: number;
}

/** The prices of a task, fixed when it is accepted: later changes of the environment don't count for it. */
export interface Quote {
  currency: string;
  /** the most that the GPU's time will cost; micro-units */
  gpu: number;
  /** pico-units */
  per_gpu_second: number;
  /** of the picture, if a bridge is to make one; micro-units */
  still: number;
}

/** What callers are shown. Lists read only this: half of a row's columns, and half of the time that reading takes. */
export const LIST_COLUMNS = [
  'id',
  'status',
  'stage',
  'step',
  'steps',
  'progress',
  'created_at',
  'started_at',
  'finished_at',
  'model',
  'input',
  'warnings',
  'still',
  'output',
  'error',
  'cost',
  'expired_at',
] as const;
export type ListedTask = Pick<Task, (typeof LIST_COLUMNS)[number]>;

/** What a read of one task needs: to show it, and to tell what of it is news. */
export const DETAIL_COLUMNS = [...LIST_COLUMNS, 'version'] as const;
export type TaskDetail = Pick<Task, (typeof DETAIL_COLUMNS)[number]>;

export type Timed = 'next_run_at' | 'leased_until';
/** A task as it begins: due at once, and nobody's. */
export type NewTask = Omit<Task, Timed>;

/** What every task begins with. */
export const INITIAL_STATE = {
  status: 'queued',
  stage: null,
  step: null,
  steps: null,
  progress: 0,
  started_at: null,
  finished_at: null,
  still: null,
  output: null,
  error: null,
  cost: null,
  job_id: null,
  submitted_at: null,
  jobs: 0,
  failures: 0,
  cancel_requested_at: null,
  jobs_to_cancel: [],
  expired_at: null,
  version: 1,
} satisfies Partial<NewTask>;

export type Changes = Partial<Omit<Task, 'id' | 'version' | 'created_at' | Timed>> & {
  /** milliseconds until the task's next turn, null: there is none; gives the lease back, so only who has it may set this */
  nextRunIn?: number | null;
  /** its next turn is now, or as soon as who has the lease gives it back; for anybody */
  runNow?: true;
};

/** Whether these changes end the task. */
export const endsTask = (task: Task, { status }: Changes) =>
  isActive(task.status) && status !== undefined && !isActive(status);
