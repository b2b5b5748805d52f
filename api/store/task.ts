/** A task as the store keeps it, and what may change in it. */
import type { FieldNote } from '../../core/invalid-request.ts';
import type { JobErrorData, JobOutput, JobUsage, Stage } from '../../core/job.ts';
import type { Metadata } from '../../core/metadata.ts';
import type { Input } from '../../core/parameters.ts';
import type { ModelName } from '../../core/presets.ts';
import type { Cost } from '../../core/responses.ts';
import { isActive, type TaskStatus } from '../../core/task-status.ts';
import type { Key, Refusal } from './key.ts';

/**
 * Times are milliseconds since 1970: by the API's clock where clients see them, by the database's where replicas must agree
 * (`next_run_at`, `leased_until`). The latter are written as times from now.
 */
export interface Task {
  /** UUIDv7: ids sort by creation */
  id: string;
  /** id of the key that created it; 'local' where there are no keys */
  owner: string;
  /** Idempotency-Key; unique per owner for 24 h */
  idempotency_key: string | null;
  /** of the request that came with the key */
  idempotency_hash: string | null;
  status: TaskStatus;
  stage: Stage | null;
  /** finished sampling steps or frames of the stage, and their total */
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
  /** the client’s own texts; they stay after a deletion */
  metadata: Metadata | null;
  /** bucket key of the uploaded picture; null once it is deleted, after the task's end */
  image_key: string | null;
  /** bucket key of an earlier task's picture */
  source_key: string | null;
  /** bucket key of the still, once it exists */
  still: string | null;
  /** bucket key of a small JPEG of the still, once it exists */
  still_preview: string | null;
  output: JobOutput | null;
  /** what its current job has used, as last reported */
  usage: JobUsage | null;
  error: JobErrorData | null;
  /** secret part of the URL that RunPod calls back */
  callback_token: string;
  /** signs the links to the clip's page, and never leaves the service; null for a task from before there were such links */
  share_secret: string | null;
  /** RunPod's id of the task's current job */
  job_id: string | null;
  submitted_at: number | null;
  /** jobs submitted so far */
  jobs: number;
  /** consecutive failed steps; they determine the backoff */
  failures: number;
  /** time of the next step, at the earliest when the lease expires; NEVER: nothing is left to do */
  next_run_at: number;
  /** lease expiry; 0: not leased. Each lease has another value */
  leased_until: number;
  /** null for a task from before there were prices */
  quote: Quote | null;
  /** once it has ended */
  cost: Cost | null;
  /** when its owner canceled it while it ran; RunPod has yet to confirm */
  cancel_requested_at: number | null;
  /** RunPod's ids of superseded jobs, which are still to be cancelled there */
  jobs_to_cancel: string[];
  /** when the deletion of its files and prompt began */
  expired_at: number | null;
  /** counts changes and leases: each update names the version that it changes */
  version: number;
}

/** The prices of a task, fixed when it is accepted. */
export interface Quote {
  currency: string;
  /** highest cost of the GPU time; micro-units */
  gpu: number;
  /** pico-units */
  per_gpu_second: number;
  /** of a generated picture; micro-units */
  still: number;
}

/** The columns that responses are made from. They read these alone, because reading all columns takes half as long again. */
export const PUBLIC_COLUMNS = [
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
  'metadata',
  'still',
  'still_preview',
  'output',
  'error',
  'cost',
  'expired_at',
  'share_secret',
  'version',
] as const;
export type PublicTask = Pick<Task, (typeof PUBLIC_COLUMNS)[number]>;

/** A task before it is stored; then it is due at once, and not leased. */
export type NewTask = Omit<Task, 'next_run_at' | 'leased_until'>;

/** The state of every new task. */
export const INITIAL_STATE = {
  status: 'queued',
  stage: null,
  step: null,
  steps: null,
  progress: 0,
  metadata: null,
  started_at: null,
  finished_at: null,
  still: null,
  still_preview: null,
  output: null,
  usage: null,
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

/** What `update` may change. */
export type Changes = Partial<Omit<NewTask, 'id' | 'version' | 'created_at'>> & {
  /** milliseconds until the task's next step; null: there is none. Also ends the lease, so only its holder may set this */
  nextRunIn?: number | null;
  /** schedules the next step for now, or for the end of the current lease; anybody may set this */
  runNow?: true;
};

/** Whether these changes say that a worker has begun. */
export const startsTask = (task: Task, { status }: Changes) => task.status === 'queued' && status === 'running';

/** Whether these changes end the task. */
export const endsTask = (task: Task, { status }: Changes) =>
  isActive(task.status) && status !== undefined && !isActive(status);

/** Some of an owner's tasks. */
export interface TaskSelection {
  owner: string;
  status?: TaskStatus | undefined;
  /** all of these */
  metadata?: Metadata | undefined;
  /** ids from this one on, itself included */
  from?: string | undefined;
  /** ids below this one */
  before?: string | undefined;
  /** ids above this one */
  after?: string | undefined;
  /** default desc: newest first */
  order?: 'asc' | 'desc' | undefined;
  /** only tasks whose files are not deleted */
  isKept?: boolean | undefined;
}

/** The outcome of `insert`: the task is stored, and this is its key afterwards; its idempotency key is taken; or its key refused it. */
export type InsertResult =
  | { key: Key; existing?: undefined; refused?: undefined }
  | { existing: Task; refused?: undefined }
  | { refused: Refusal; key: Key; existing?: undefined };
