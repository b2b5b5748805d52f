/** The JSON of the API's responses. The API writes it, the client and the page read it. Times are ISO 8601 in UTC. */
import type { JobErrorData, JobOutput, Stage } from './job.ts';
import type { Input } from './parameters.ts';
import type { ModelName } from './presets.ts';
import type { FieldNote } from './request.ts';

const ACTIVE_STATUSES = ['queued', 'running'] as const;
export const ENDED_STATUSES = ['succeeded', 'failed', 'canceled'] as const;
export const STATUSES = [...ACTIVE_STATUSES, ...ENDED_STATUSES] as const;
export type TaskStatus = (typeof STATUSES)[number];
export const isActive = (status: TaskStatus) => (ACTIVE_STATUSES as readonly string[]).includes(status);

/** A file with its signed URL in place of its bucket key. */
type Linked<F> = Omit<F, 'key'> & { link: string };

export interface PresentedTask {
  /** UUIDv7 */
  id: string;
  status: TaskStatus;
  /** only while running */
  stage?: Stage;
  /** the last finished sampling step or frame, and their number */
  step?: number;
  steps?: number;
  /** 0–1, never falls */
  progress: number;
  /** seconds left, an estimate */
  eta_seconds?: number;
  created_at: string;
  started_at?: string;
  finished_at?: string;
  model: ModelName;
  /** every parameter, with defaults resolved */
  input: Input;
  warnings: FieldNote[];
  still?: { link: string };
  videos?: Linked<JobOutput['videos'][number]>[];
  grid?: Linked<NonNullable<JobOutput['grid']>>;
  links_expire_at?: string;
  /** when its files and prompt were deleted */
  expired_at?: string;
  error?: JobErrorData;
  cost?: Cost;
}

export interface Cost {
  /** micro-units of the currency */
  amount: number;
  currency: string;
  /** sampling and decoding, of the job whose result counts */
  gpu_seconds: number;
  /** pictures that a bridge made */
  stills: number;
}

/** The highest cost that a task can have. */
export type CostEstimate = Omit<Cost, 'stills'>;

/** The account of an API key. Amounts are micro-units of the currency; null means no limit. */
export interface Usage {
  currency: string;
  /** the month of `spent`, such as 2026-01 (UTC) */
  month: string;
  budget: number | null;
  spent: number;
  reserved: number;
  left: number | null;
  open_tasks: number;
  limits: {
    open_tasks: number | null;
    submissions_per_minute: number | null;
    requests_per_minute: number | null;
  };
  days: UsageDay[];
}

/** The usage of the tasks that ended on one day. */
export type UsageDay = Record<(typeof ENDED_STATUSES)[number], number> & {
  /** such as 2026-01-31 (UTC) */
  day: string;
  tasks: number;
  gpu_seconds: number;
  stills: number;
  amount: number;
};
