/** RunPod's queue API of one endpoint. The one importer of runpod-sdk. */
// biome-ignore lint/style/noRestrictedImports: This module is the only importer of runpod-sdk.
import createSdk from 'runpod-sdk';
import * as v from 'valibot';
import type { JobInput } from '../core/job.ts';
import { SECOND } from '../core/time.ts';
import type { Config } from './config.ts';

/** The SDK's 3 s are short: a submission that timed out may still have created a job. */
const TIMEOUT = 30 * SECOND;
/** A client of /readyz waits for it. */
const HEALTH_TIMEOUT = 5 * SECOND;

const submitted = v.object({ id: v.pipe(v.string(), v.nonEmpty(), v.maxLength(200)), status: v.string() });
const canceled = v.object({ status: v.string() });
const health = v.object({ jobs: v.object({}), workers: v.object({}) });
const jobStatus = v.object({
  status: v.picklist(['IN_QUEUE', 'IN_PROGRESS', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT']),
  output: v.optional(v.unknown()),
  error: v.optional(v.unknown()),
  input: v.optional(v.fallback(v.looseObject({ task_id: v.optional(v.unknown()) }), {})),
});
/** `output` is the progress while the job runs. `input` is not documented by RunPod, but its callbacks have it. */
export type RunPodJob = v.InferOutput<typeof jobStatus>;

export const isUnfinished = ({ status }: RunPodJob) =>
  status === 'IN_QUEUE' || status === 'IN_PROGRESS' || status === 'RUNNING';

/** Thrown when it is unknown whether RunPod created the job: the submission was sent, and no readable response came. */
export class UnansweredError extends Error {
  override readonly name = 'Unanswered';
}

export interface Submission {
  input: JobInput;
  /** URL that RunPod calls when the job has ended */
  webhook: string;
  /** milliseconds: of execution, and from submission to end */
  policy: { executionTimeout: number; ttl: number };
}

export type RunPod = ReturnType<typeof openRunPod>;

/** @param config `baseUrl`: of a simulator instead of RunPod */
export function openRunPod({ apiKey, endpointId, baseUrl }: Config['runpod']) {
  const sdk = baseUrl ? createSdk(apiKey, { baseUrl }) : createSdk(apiKey);
  const endpoint = sdk.endpoint(endpointId);
  if (!endpoint) throw new Error('RUNPOD_ENDPOINT_ID is empty');
  return {
    /** @returns the job's id. @throws UnansweredError; Error: RunPod can't be reached or refuses, so there is no job */
    async submit(submission: Submission): Promise<string> {
      try {
        // The SDK does not throw for some other statuses than 200: the schema catches them.
        return parse(submitted, await endpoint.run(submission, TIMEOUT)).id;
      } catch (error) {
        if ((statusOf(error) ?? GATEWAY_TIMEOUT) !== GATEWAY_TIMEOUT || NOT_SENT.has(causeOf(error))) throw error;
        throw new UnansweredError('RunPod did not confirm the job', { cause: error });
      }
    },

    /** @returns undefined: RunPod does not know the job, or not any more. @throws Error: RunPod can't be reached or refuses */
    async getStatus(jobId: string, timeout = TIMEOUT): Promise<RunPodJob | undefined> {
      try {
        return parse(jobStatus, await endpoint.status(jobId, timeout));
      } catch (error) {
        if (statusOf(error) === 404) return undefined;
        throw error;
      }
    },

    /** Resolves also for a job that RunPod does not know. @throws Error: RunPod can't be reached or refuses */
    async cancel(jobId: string, timeout = TIMEOUT): Promise<void> {
      try {
        parse(canceled, await endpoint.cancel(jobId, timeout));
      } catch (error) {
        if (statusOf(error) !== 404) throw error;
      }
    },

    /** @throws Error: RunPod can't be reached, or refuses the key or the endpoint */
    async health(): Promise<void> {
      parse(health, await endpoint.health(HEALTH_TIMEOUT));
    },
  };
}

/** @throws Error that does not repeat the response, as valibot's would: a job's input may be in it */
function parse<T extends v.GenericSchema>(schema: T, response: unknown): v.InferOutput<T> {
  const { success, output, issues } = v.safeParse(schema, response);
  if (success) return output;
  throw new Error(`RunPod’s response is invalid: ${v.getDotPath(issues[0]) ?? 'no object'}`);
}

const GATEWAY_TIMEOUT = 504;
/** Error codes of undici and Node for requests that were not sent. */
const NOT_SENT = new Set<unknown>([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'UND_ERR_CONNECT_TIMEOUT',
]);
const causeOf = (error: unknown) => (error as { cause?: { code?: unknown } }).cause?.code;

const statusOf = (error: unknown) => (error as { response?: { status?: number } }).response?.status;
