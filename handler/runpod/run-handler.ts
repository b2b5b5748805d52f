/** Runs a handler, and turns what it returns, yields or throws into the body of job-done. */
import { inspect } from 'node:util';
import type { TakenJob } from './queue-client.ts';

export interface JobContext {
  /** Reports progress, any JSON value, which RunPod shows as the output of the running job. Only the latest value is sure to be sent. */
  progress: (value: unknown) => void;
  /** Aborted when RunPod stops the job, when the worker has to end first, or when an uncaught error has failed the job. */
  signal: AbortSignal;
}

/**
 * Runs one job. Its return value is the job's output, except two properties at the top level: `error` (text) fails the job, and
 * `refresh_worker: true` asks RunPod for a fresh worker. An exception fails the job, too. An async generator's values are sent as chunks,
 * each after the previous one has been accepted; a chunk with `error` ends and fails the job.
 */
export type Handler = (job: TakenJob, context: JobContext) => unknown;

/** The body of job-done. */
export interface Outcome {
  output?: unknown;
  error?: string;
  /** asks RunPod for a fresh worker */
  stopPod?: true;
}

export interface RunOptions extends JobContext {
  /** called when the handler turns out to be a generator */
  onStream?: () => void;
  /** sends a chunk; without it the chunks are the output */
  sendChunk?: ((chunk: unknown) => Promise<void>) | undefined;
  /** whether the chunks are also the output */
  aggregate?: boolean | undefined;
}

/** @throws what the handler or `sendChunk` throws */
export async function runHandler(
  handler: Handler,
  job: TakenJob,
  { progress, signal, onStream, sendChunk, aggregate }: RunOptions,
): Promise<Outcome> {
  const value = await handler(job, { progress, signal });
  if (!isAsyncIterable(value)) return toOutcome(value);
  onStream?.();
  const output: unknown[] = [];
  for await (const chunk of value) {
    signal.throwIfAborted(); // which also ends the generator
    const error = isObject(chunk) && chunk.error;
    if (error) return { error: toText(error) };
    if (aggregate || !sendChunk) output.push(chunk);
    await sendChunk?.(chunk);
  }
  return { output };
}

function toOutcome(value: unknown): Outcome {
  if (!isObject(value) || Array.isArray(value)) return { output: value ?? null };
  const { error, refresh_worker, ...output } = value;
  return {
    ...(Object.keys(output).length > 0 ? { output } : {}),
    ...(error ? { error: toText(error) } : {}),
    ...(refresh_worker === true ? { stopPod: true } : {}),
  };
}

/** The `error` of a job that threw, in the format of RunPod's Python worker: JSON as text. */
export function formatError(error: unknown, workerId: string): string {
  const { name, message, stack } = error instanceof Error ? error : new Error(inspect(error));
  return JSON.stringify({ error_type: name, error_message: message, error_traceback: stack, worker_id: workerId });
}

/** @throws Error: the JSON is larger than `maxBytes`, or the value cannot be serialized */
export function serialize(value: object, what: string, maxBytes: number): string {
  const text = JSON.stringify(value);
  const bytes = Buffer.byteLength(text);
  if (bytes > maxBytes)
    throw new Error(`${what} has ${(bytes / 1e6).toFixed(1)} MB, and RunPod takes at most ${maxBytes / 1e6}`);
  return text;
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;
const isAsyncIterable = (value: unknown): value is AsyncIterable<unknown> =>
  isObject(value) && Symbol.asyncIterator in value;
const toText = (error: unknown) => (typeof error === 'string' ? error : JSON.stringify(error));
