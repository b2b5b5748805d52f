/** RunPod's endpoint, as tasks need it. The one importer of runpod-sdk. */
// biome-ignore lint/style/noRestrictedImports: This module is the only importer of runpod-sdk.
import createSdk from 'runpod-sdk';
import * as v from 'valibot';
import type { JobInput } from '../core/job.ts';
import { SECOND } from '../core/time.ts';

/** The SDK's own 3 s are short: a submission that timed out may still have made a job. */
const TIMEOUT = 30 * SECOND;
/** Whoever asks how RunPod does waits less. */
const HEALTH_TIMEOUT = 5 * SECOND;

const submitted = v.object({ id: v.pipe(v.string(), v.nonEmpty()), status: v.string() });

const canceled = v.object({ status: v.string() });

const seen = v.object({
  status: v.picklist(['IN_QUEUE', 'IN_PROGRESS', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT']),
  output: v.optional(v.unknown()),
  error: v.optional(v.unknown()),
  input: v.optional(v.fallback(v.looseObject({ task_id: v.optional(v.unknown()) }), {})),
});
/** A job as RunPod shows it; `output` is its progress while it runs. `input` is not in RunPod's documents, its callbacks have it. */
export type RunPodJob = v.InferOutput<typeof seen>;

export const isUnfinished = ({ status }: RunPodJob) =>
  status === 'IN_QUEUE' || status === 'IN_PROGRESS' || status === 'RUNNING';

/** Nobody knows whether RunPod has taken a submission: it was sent, and no answer came that can be read. */
export class UnansweredError extends Error {
  override readonly name = 'Unanswered';
}

const health = v.object({ jobs: v.object({}), workers: v.object({}) });

export interface Submission {
  input: JobInput;
  /** where RunPod announces the end */
  webhook: string;
  /** milliseconds of running, and of existing */
  policy: { executionTimeout: number; ttl: number };
}

export interface RunPod {
  /** @returns the job's id. @throws Error: RunPod can't be reached or refuses; Unanswered: there may be a job all the same */
  submit(submission: Submission): Promise<string>;
  /** @returns undefined if RunPod knows no such job (any more). @throws Error: RunPod can't be reached or refuses */
  getStatus(jobId: string): Promise<RunPodJob | undefined>;
  /** Also of a job that RunPod does not know. @throws Error: RunPod can't be reached or refuses */
  cancel(jobId: string): Promise<void>;
  /** @throws Error: RunPod can't be reached, or does not take the key or the endpoint */
  health(): Promise<void>;
}

export function openRunPod({
  apiKey,
  endpointId,
  baseUrl,
}: {
  apiKey: string;
  endpointId: string;
  baseUrl: string | undefined;
}): RunPod {
  const sdk = baseUrl ? createSdk(apiKey, { baseUrl }) : createSdk(apiKey);
  const endpoint = sdk.endpoint(endpointId);
  if (!endpoint) throw new Error('RUNPOD_ENDPOINT_ID is empty');
  return {
    async submit(submission) {
      try {
        // The SDK lets other answers than 200 through without an error: the schema finds them.
        return read(submitted, await endpoint.run(submission, TIMEOUT)).id;
      } catch (error) {
        if ((statusOf(error) ?? GATEWAY_TIMEOUT) !== GATEWAY_TIMEOUT || NOT_SENT.has(causeOf(error))) throw error;
        throw new UnansweredError('RunPod did not say whether it has taken the job', { cause: error });
      }
    },
    async getStatus(jobId) {
      try {
        return read(seen, await endpoint.status(jobId, TIMEOUT));
      } catch (error) {
        if (statusOf(error) === 404) return undefined;
        throw error;
      }
    },
    async cancel(jobId) {
      try {
        read(canceled, await endpoint.cancel(jobId, TIMEOUT));
      } catch (error) {
        if (statusOf(error) !== 404) throw error;
      }
    },
    async health() {
      read(health, await endpoint.health(HEALTH_TIMEOUT));
    },
  };
}

/** @throws Error that does not repeat the answer, as valibot's own would: a job's input may be in it */
function read<T extends v.GenericSchema>(schema: T, answer: unknown): v.InferOutput<T> {
  const { success, output, issues } = v.safeParse(schema, answer);
  if (success) return output;
  throw new Error(`RunPod’s answer has not the form of one: ${v.getDotPath(issues[0]) ?? 'no object'}`);
}

const GATEWAY_TIMEOUT = 504;
/** Codes of undici and Node for what happens before a request is on its way. */
const NOT_SENT = new Set<unknown>([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'UND_ERR_CONNECT_TIMEOUT',
]);
const causeOf = (error: unknown) => (error as { cause?: { code?: unknown } }).cause?.code;

const statusOf = (error: unknown) => (error as { response?: { status?: number } }).response?.status;
