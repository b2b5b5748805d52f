/**
 * The typed client. It runs in Node 20.19 or newer and in browsers: nothing of Node's is imported. What it sends and gets is typed by
 * the API's own schemas and functions.
 */
import type * as v from 'valibot';
import type { Input, requestSchema } from '../core/parameters.ts';
import type { FieldNote } from '../core/request.ts';
import type { CostEstimate, PresentedTask, Usage } from '../core/responses.ts';
import { isActive, type TaskStatus } from '../core/responses.ts';
import { SECOND } from '../core/time.ts';
import { ApiError } from './error.ts';
import { followEvents } from './events.js';
import { type CallOptions, call } from './http.ts';

export { ApiError } from './error.ts';
export { verifyWebhook, type WebhookEvent, WebhookVerificationError } from './webhook.ts';

/** Events without a sign of life for so long have broken off unnoticed: one comes every 15 s. */
const SILENCE = 45 * SECOND;

export type Task = PresentedTask;
export type Video = NonNullable<Task['videos']>[number];
/** What a clip is made of: one of `prompt`, `image_url`, `image` and `still_of`, and whatever else the API knows. */
export type Parameters = v.InferInput<ReturnType<typeof requestSchema>> & { image?: Blob | Uint8Array };
export interface DryRun {
  /** every parameter, with the values that would be used */
  input: Input;
  warnings: FieldNote[];
  /** the amount in millionths of the currency: the most that the task can cost */
  cost_estimate: CostEstimate;
}
/** Amounts in millionths of the currency. */
export type { Usage };

export interface ClientOptions {
  /** such as https://video.example.com */
  url: string;
  /** i2v_…; not needed, and may be empty, as long as the service has no keys */
  key?: string | undefined;
  fetch?: typeof fetch;
  /** how often a request that got no answer, or 429, 502, 503 or 504, is sent again; 4 if it is not said */
  retries?: number;
  /** for how long events that broke off are taken up again without success; milliseconds, 10 minutes if it is not said */
  patience?: number;
  /** told why no news comes for a while; undefined where events have only ended, as when the service starts anew */
  onBreak?: (error: unknown) => void;
}

export interface Options {
  signal?: AbortSignal | undefined;
}

export interface CreateOptions extends Options {
  /** a word of your own, the same for the same clip; without one each call has its own, under which its retries are one task */
  idempotencyKey?: string;
  /** how long the answer may take if the task may have ended by then; seconds, at most 60 */
  wait?: number;
}

export interface ListOptions extends Options {
  status?: TaskStatus | undefined;
  /** created then or later */
  since?: Date | string | undefined;
  /** created before */
  until?: Date | string | undefined;
  /** tasks of one page: what is asked for at a time, 1 to 1000 */
  pageSize?: number;
}

/** A task that can be followed: `for await (const update of task)` gives it as it is, and at each change until it ends. */
export interface FollowedTask extends AsyncIterable<Task> {
  readonly id: string;
  /** @returns the task when it has ended, in whichever way: see its status */
  done(): Promise<Task>;
}

export interface CreatedTask extends FollowedTask {
  /** as the post answered it */
  readonly answer: Task;
  /** whether an earlier post with this idempotency key has made it */
  readonly isReplayed: boolean;
}

export type Client = ReturnType<typeof createClient>;

/** Every function throws ApiError where the API refuses something or can't be reached, or the signal's reason. */
export function createClient({
  url,
  key,
  fetch: send = (...args) => fetch(...args),
  retries = 4,
  patience = 600 * SECOND,
  onBreak = () => {},
}: ClientOptions) {
  const base = url.replace(/\/+$/, '');
  const authorization: Record<string, string> = key ? { authorization: `Bearer ${key}` } : {};

  const ask = (path: string, { headers, ...options }: CallOptions & { headers?: Record<string, string> } = {}) =>
    call(send, base + path, { retries, ...options, headers: { ...authorization, ...headers } });

  async function json<T>(asked: Promise<Response>): Promise<T> {
    return (await (await asked).json()) as T;
  }

  /** The task and its changes; taken up again where the events break off. */
  async function* changes(id: string, given: AbortSignal | undefined): AsyncGenerator<Task, void> {
    const stop = new AbortController();
    const signal = given ? AbortSignal.any([given, stop.signal]) : stop.signal;
    let heard = Date.now();

    async function connect(headers: Record<string, string>) {
      try {
        const response = await ask(`/status${query({ id })}`, { headers, signal, retries: 0 });
        heard = Date.now();
        return { status: response.status, body: response.body && lively(response.body, () => (heard = Date.now())) };
      } catch (error) {
        if (error instanceof ApiError && Date.now() - heard > patience) error.retryable = false;
        throw error;
      }
    }

    const news: Task[] = [];
    let wake = () => {};
    let isOver = false;
    const following = followEvents(connect, {
      onData(data) {
        const task = JSON.parse(data) as Task;
        news.push(task);
        wake();
        return !isActive(task.status);
      },
      onBreak,
      signal,
    }).finally(() => {
      isOver = true;
      wake();
    });
    following.catch(() => {}); // it is awaited below, unless nobody listens any more
    try {
      while (!isOver || news.length > 0) {
        if (news.length > 0) yield news.shift()!;
        else
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
      }
      await following;
      given?.throwIfAborted();
    } finally {
      stop.abort();
    }
  }

  function followed(id: string, signal: AbortSignal | undefined): FollowedTask {
    return {
      id,
      [Symbol.asyncIterator]: () => changes(id, signal),
      async done() {
        let latest: Task | undefined;
        for await (const task of changes(id, signal)) latest = task;
        return latest!;
      },
    };
  }

  return {
    /** Creates a task. It goes on also where nobody follows it: `signal` ends only the waiting. */
    async img2vid(
      parameters: Parameters,
      { idempotencyKey = randomWord(), wait, signal }: CreateOptions = {},
    ): Promise<CreatedTask> {
      const headers: Record<string, string> = {
        'idempotency-key': idempotencyKey,
        ...(wait !== undefined && { prefer: `wait=${wait}` }),
      };
      const { body, type } = bodyOf(parameters);
      const post = { method: 'POST', headers: { ...headers, ...type }, body, signal, wait: wait ?? 0 };
      const response = await ask('/img2vid', post);
      const answer = (await response.json()) as Task;
      const isReplayed = response.headers.get('idempotency-replayed') === 'true';
      return { ...followed(answer.id, signal), answer, isReplayed };
    },

    /** What a task with these parameters would be, and the most that it can cost; nothing is made. */
    dryRun(parameters: Parameters, { signal }: Options = {}): Promise<DryRun> {
      const { body, type } = bodyOf(parameters);
      return json(ask('/img2vid?dry_run=1', { method: 'POST', headers: type, body, signal }));
    },

    /** A task that is there already, to be followed. */
    follow: (id: string, { signal }: Options = {}): FollowedTask => followed(id, signal),

    status: (id: string, { signal }: Options = {}): Promise<Task> => json(ask(`/status${query({ id })}`, { signal })),

    /** Tasks, newest first; asked for a page at a time, as they are wanted. */
    async *list({ status, since, until, pageSize = 100, signal }: ListOptions = {}): AsyncGenerator<Task, void> {
      let cursor: string | undefined;
      do {
        const asked = { status, since: time(since), until: time(until), limit: String(pageSize), cursor };
        const response = await ask(`/status${query(asked)}`, { signal });
        yield* (await response.json()) as Task[];
        // Only the cursor: where a proxy's address is not the service's own, the link leads elsewhere.
        const [, next] = /<([^>]*)>; *rel="next"/.exec(response.headers.get('link') ?? '') ?? [];
        cursor = next && (new URL(next, base).searchParams.get('cursor') ?? undefined);
      } while (cursor);
    },

    /** Cancels a queued task at once; of a running one a result may still come first. */
    cancel: (id: string, { signal }: Options = {}): Promise<Task> =>
      json(ask(`/cancel${query({ id })}`, { method: 'POST', signal })),

    /** Deletes the files and the prompt of an ended task. */
    delete: (id: string, { signal }: Options = {}): Promise<Task> =>
      json(ask(`/delete${query({ id })}`, { method: 'POST', signal })),

    /** What the key has spent: of this month, or by the day, such as 2026-11-01, from `since` to `until`. */
    usage: ({ since, until, signal }: Options & { since?: string | undefined; until?: string | undefined } = {}) =>
      json<Usage>(ask(`/usage${query({ since, until })}`, { signal })),

    /** A video's, grid's or still's bytes, such as `(await client.download(video)).blob()`. The key is not sent: links are signed. */
    download: ({ link }: { link: string }, { signal }: Options = {}): Promise<Response> =>
      call(send, link, { retries, signal }),
  };
}

/** As multipart where there is a picture, else as JSON. */
function bodyOf({ image, ...parameters }: Parameters): { body: FormData | string; type: Record<string, string> } {
  if (image === undefined) return { body: JSON.stringify(parameters), type: { 'content-type': 'application/json' } };
  const body = new FormData();
  for (const [name, value] of Object.entries(parameters)) if (value !== undefined) body.append(name, String(value));
  body.append('image', image instanceof Blob ? image : new Blob([image as Uint8Array<ArrayBuffer>]), 'image');
  return { body, type: {} };
}

function query(values: Record<string, string | undefined>): string {
  const given = Object.entries(values).filter((entry): entry is [string, string] => entry[1] !== undefined);
  return given.length === 0 ? '' : `?${new URLSearchParams(given)}`;
}

const time = (given: Date | string | undefined) => (given instanceof Date ? given.toISOString() : given);

/** `crypto.randomUUID` is missing in pages that came without https. */
const randomWord = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');

/** A body that fails when nothing has come for a while: a network may go away without a word. */
function lively(body: ReadableStream<Uint8Array>, onSign: () => void): ReadableStream<Uint8Array> {
  const reader = body.getReader();
  return new ReadableStream({
    async pull(controller) {
      let timer: ReturnType<typeof setTimeout> | undefined;
      const silence = new Promise<never>((_, reject) => {
        timer = setTimeout(reject, SILENCE, new Error(`no sign of life for ${SILENCE / SECOND} s`));
      });
      try {
        const { done, value } = await Promise.race([reader.read(), silence]);
        if (done) return controller.close();
        onSign();
        controller.enqueue(value);
      } catch (error) {
        reader.cancel(error).catch(() => {}); // it may be broken
        throw error;
      } finally {
        clearTimeout(timer);
      }
    },
    cancel: (reason) => reader.cancel(reason),
  });
}
