/** What a handler is given, and what becomes of what it returns or throws. */
import { inspect } from 'node:util';
import type { TakenJob } from './queue-client.ts';

export interface JobTools {
  /** Reports progress: any JSON value, shown as the job's output while it runs. The latest wins; none is sent after the outcome. */
  progress: (value: unknown) => void;
  /** Aborted when RunPod stops the job, when the worker has to end before the job does, or when the job has failed behind its back. */
  signal: AbortSignal;
}

/**
 * Runs one job. What it returns is the job's output, with two names of RunPod's at its top level: `error` (text) fails the job,
 * `refresh_worker: true` asks for a fresh worker afterwards. What it throws fails the job too. From an async generator each value is
 * sent as a chunk of the output, when the one before has been accepted; a chunk with `error` ends and fails the job.
 */
export type Handle = (job: TakenJob, tools: JobTools) => unknown;

/** The body of job-done. */
export interface Outcome {
  output?: unknown;
  error?: string;
  /** asks RunPod for a fresh worker */
  stopPod?: true;
}

export interface ProduceOptions extends JobTools {
  /** called when the handler turns out to be a generator */
  onStream?: () => void;
  /** takes one chunk; where it is absent the chunks are the output */
  sendChunk?: ((chunk: unknown) => Promise<void>) | undefined;
  /** chunks are gathered as the output, though they were sent */
  aggregate?: boolean | undefined;
}

/**
 * One job from its input to its outcome.
 * @throws what the handler throws, or `sendChunk`
 */
export async function produce(
  job: TakenJob,
  handle: Handle,
  { progress, signal, onStream, sendChunk, aggregate }: ProduceOptions,
): Promise<Outcome> {
  const value = await handle(job, { progress, signal });
  if (!isAsyncIterable(value)) return outcomeOf(value);
  onStream?.();
  const gathered: unknown[] = [];
  for await (const chunk of value) {
    signal.throwIfAborted(); // which also ends the generator
    const error = isObject(chunk) && chunk.error;
    if (error) return { error: asText(error) };
    if (aggregate || !sendChunk) gathered.push(chunk);
    await sendChunk?.(chunk);
  }
  return { output: gathered };
}

function outcomeOf(value: unknown): Outcome {
  if (!isObject(value) || Array.isArray(value)) return { output: value ?? null };
  const { error, refresh_worker, ...output } = value;
  return {
    ...(Object.keys(output).length > 0 ? { output } : {}),
    ...(error ? { error: asText(error) } : {}),
    ...(refresh_worker === true ? { stopPod: true } : {}),
  };
}

/** A thrown error as RunPod's own worker words it: JSON, as text. */
export function thrown(error: unknown, workerId: string): string {
  const { name, message, stack } = error instanceof Error ? error : new Error(inspect(error));
  return JSON.stringify({ error_type: name, error_message: message, error_traceback: stack, worker_id: workerId });
}

/** @throws Error: longer than RunPod takes, or no JSON can be made of it */
export function within(most: number, what: string, value: object): string {
  const text = JSON.stringify(value);
  const bytes = Buffer.byteLength(text);
  if (bytes > most)
    throw new Error(`${what} has ${(bytes / 1e6).toFixed(1)} MB, and RunPod takes at most ${most / 1e6}`);
  return text;
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;
const isAsyncIterable = (value: unknown): value is AsyncIterable<unknown> =>
  isObject(value) && Symbol.asyncIterator in value;
const asText = (error: unknown) => (typeof error === 'string' ? error : JSON.stringify(error));
