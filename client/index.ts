/**
 * The typed client, for Node 20.19 or newer and for browsers: nothing of Node's is imported. The types of requests and responses are
 * made from the API's own schemas.
 */
import { MINUTE } from '../core/time.ts';
import { type FollowedTask, followTask } from './follow.ts';
import { type CallOptions, call, errorOf, hasType, readAnswer } from './http.ts';
import type { DryRun, RequestParameters, Task, Usage } from './types.ts';

export { ApiError } from './http.ts';
export { verifyWebhook, type WebhookEvent, WebhookVerificationError } from './webhook.ts';
export type { DryRun, FollowedTask, Task, Usage };

export type Video = NonNullable<Task['videos']>[number];
/**
 * The body of a request: one of `prompt`, `image_url`, `image` and `still_of`, and any other parameters. A File names the clip; text is
 * base64 or a data URL.
 */
export type Parameters = RequestParameters & { image?: Blob | Uint8Array | string };

export interface ClientOptions {
  /** such as https://video.example.com */
  url: string;
  /** i2v_…; not needed, and may be empty, as long as the service has no keys */
  key?: string | undefined;
  fetch?: typeof fetch;
  /** retries after no response, 429, 502, 503 or 504; default 4 */
  retries?: number;
  /** how long a broken event stream is reconnected without success; milliseconds, default 10 minutes */
  retryBudget?: number;
  /** called when an event stream breaks off; without an error where it only ended, as when the service restarts */
  onBreak?: (error?: unknown) => void;
}

export interface Options {
  signal?: AbortSignal | undefined;
}

export interface CreateOptions extends Options {
  /** a unique string, the same for the same clip; by default random, so that only the retries of one call are one task */
  idempotencyKey?: string;
  /** how long the response may wait for the end of the task; seconds, at most 60 */
  wait?: number;
}

export interface ListOptions extends Options {
  status?: Task['status'] | undefined;
  /** created then or later */
  since?: Date | string | undefined;
  /** created before */
  until?: Date | string | undefined;
  /** only tasks with these texts */
  metadata?: RequestParameters['metadata'];
  /** tasks requested at a time, 1 to 1000; default 100 */
  pageSize?: number;
}

export interface CreatedTask extends FollowedTask {
  /** the response to the post */
  readonly answer: Task;
  /** whether an earlier post with this idempotency key created it */
  readonly isReplayed: boolean;
}

export type Client = ReturnType<typeof createClient>;

/**
 * A client of one service. It has over 100 lines, because each call of the API is a function of it. Every one throws ApiError where the
 * API refuses something or cannot be reached, or the signal's reason.
 * @throws TypeError the URL or the key can't be used
 * @example
 * const client = createClient({ url: 'http://127.0.0.1:5000', key: process.env.IMG2VID_API_KEY });
 * const task = await client.img2vid({ prompt: 'a lighthouse at dawn', T: 25 });
 * for await (const { stage, progress } of task) console.log(stage, progress);
 */
export function createClient({
  url,
  key,
  fetch: send = (...args) => fetch(...args),
  retries = 4,
  retryBudget = 10 * MINUTE,
  onBreak = () => {},
}: ClientOptions) {
  check('url', URL.canParse(url) && HTTP_URL.test(url), 'an http or https URL without password or query');
  if (key) checkHeader('key', key);
  const base = url.replace(/\/+$/, '');
  const authorization: Record<string, string> = key ? { authorization: `Bearer ${key}` } : {};

  type RequestOptions = CallOptions & { headers?: Record<string, string> };
  const request = <T>(
    path: string,
    { headers, ...options }: RequestOptions,
    read: (response: Response) => T | Promise<T>,
  ): Promise<T> => call(send, base + path, { retries, ...options, headers: { ...authorization, ...headers } }, read);

  /** @param field that the answer always has */
  const requestJson = <T extends object>(path: string, options: RequestOptions, field: keyof T & string) =>
    request(path, options, (response) => readAnswer<T>(response, field));

  /**
   * Follows an existing task.
   * @example
   * const { videos, error } = await client.follow(id).done();
   */
  const follow = (id: string, { signal }: Options = {}): FollowedTask =>
    followTask(id, {
      request: (init) => request(`/status${queryString({ id })}`, { ...init, retries: 0 }, requireEvents),
      retryBudget,
      onBreak,
      signal,
    });

  return {
    follow,

    /**
     * Creates a task. `signal` ends only the waiting: the task goes on.
     * @example
     * const { answer } = await client.img2vid({ image: await readFile('photo.jpg') }, { wait: 60 });
     */
    async img2vid(
      parameters: Parameters,
      { idempotencyKey = randomKey(), wait = 0, signal }: CreateOptions = {},
    ): Promise<CreatedTask> {
      const { body, headers } = requestBody(parameters);
      checkHeader('idempotencyKey', idempotencyKey);
      const options = {
        method: 'POST',
        headers: { ...headers, 'idempotency-key': idempotencyKey, ...(wait > 0 && { prefer: `wait=${wait}` }) },
        body,
        signal,
        wait,
      };
      return request('/img2vid', options, async (response) => {
        const answer = await readAnswer<Task>(response, 'id');
        const isReplayed = response.headers.get('idempotency-replayed') === 'true';
        return { ...follow(answer.id, { signal }), answer, isReplayed };
      });
    },

    /** Resolves parameters and estimates the highest cost. Creates nothing. */
    dryRun: (parameters: Parameters, { signal }: Options = {}) =>
      requestJson<DryRun>(
        '/img2vid?dry_run=1',
        { method: 'POST', ...requestBody(parameters), signal },
        'cost_estimate',
      ),

    status: (id: string, { signal }: Options = {}) =>
      requestJson<Task>(`/status${queryString({ id })}`, { signal }, 'id'),

    /**
     * Tasks, newest first. Pages are requested as they are needed.
     * @example
     * for await (const { id } of client.list({ status: 'succeeded', since: '2026-01-31T18:00:00Z' })) console.log(id);
     */
    async *list({
      status,
      since,
      until,
      metadata,
      pageSize = 100,
      signal,
    }: ListOptions = {}): AsyncGenerator<Task, void> {
      let cursor: string | undefined;
      do {
        const times = { since: formatTime(since), until: formatTime(until) };
        const query = { status, ...times, ...metadataFields(metadata), limit: String(pageSize), cursor };
        const read = async (response: Response) => {
          const tasks = await readAnswer<Task[]>(response, 'length');
          return { tasks, link: response.headers.get('link') ?? '' };
        };
        const { tasks, link } = await request(`/status${queryString(query)}`, { signal }, read);
        yield* tasks;
        // Only the cursor of the link: behind a proxy its origin may not be the one that this client knows.
        const [, next] = /<([^>]*)>; *rel="next"/.exec(link) ?? [];
        cursor = next && (new URL(next, base).searchParams.get('cursor') ?? undefined);
      } while (cursor);
    },

    /** Cancels a task: a queued one at once; a running one may still succeed. */
    cancel: (id: string, { signal }: Options = {}) =>
      requestJson<Task>(`/cancel${queryString({ id })}`, { method: 'POST', signal }, 'id'),

    /** Deletes the files and the prompt of an ended task. */
    delete: (id: string, { signal }: Options = {}) =>
      requestJson<Task>(`/delete${queryString({ id })}`, { method: 'POST', signal }, 'id'),

    /** What the key has spent: this month, or on each day from `since` to `until`, such as 2026-11-01. Amounts in micro-units. */
    usage: ({ since, until, signal }: Options & { since?: string | undefined; until?: string | undefined } = {}) =>
      requestJson<Usage>(`/usage${queryString({ since, until })}`, { signal }, 'days'),

    /**
     * Gets a video, grid or still. Links are signed: the key is not sent.
     * @example
     * const blob = await (await client.download(video)).blob();
     */
    download: ({ link }: { link: string }, { signal }: Options = {}): Promise<Response> =>
      call(send, link, { retries, signal }, (response) => response),
  };
}

/** fetch would put a URL's password, or the key, in the message of its error. */
function check(name: string, isValid: boolean, description: string): void {
  if (!isValid) throw new TypeError(`${name}: must be ${description}`);
}
const HTTP_URL = /^https?:\/\/[^/?#@]+(\/[^?#]*)?$/i;
const checkHeader = (name: string, text: string) => check(name, /^[!-~]+$/.test(text), 'visible ASCII');

function requireEvents(response: Response): Response {
  if (response.status === 200 && !hasType(response, 'text/event-stream')) throw errorOf(response);
  return response;
}

/** Multipart with a file, else JSON. */
function requestBody({ image, ...parameters }: Parameters): {
  body: FormData | string;
  headers: Record<string, string>;
} {
  if (image === undefined || typeof image === 'string')
    return { body: JSON.stringify({ ...parameters, image }), headers: { 'content-type': 'application/json' } };
  const body = new FormData();
  const { metadata, ...texts } = parameters;
  const fields = { ...texts, ...metadataFields(metadata) };
  for (const [name, value] of Object.entries(fields)) if (value !== undefined) body.append(name, String(value));
  const blob = image instanceof Blob ? image : new Blob([image as Uint8Array<ArrayBuffer>]);
  if (blob instanceof File) body.append('image', blob);
  else body.append('image', blob, 'image');
  return { body, headers: {} };
}

/** Metadata as forms and queries carry it. */
const metadataFields = (metadata: RequestParameters['metadata'] = {}): Record<string, string> =>
  Object.fromEntries(Object.entries(metadata).map(([key, value]) => [`metadata[${key}]`, value]));

function queryString(values: Record<string, string | undefined>): string {
  const defined = Object.entries(values).filter((entry): entry is [string, string] => entry[1] !== undefined);
  return defined.length === 0 ? '' : `?${new URLSearchParams(defined)}`;
}

const formatTime = (time: Date | string | undefined) => (time instanceof Date ? time.toISOString() : time);

/** crypto.randomUUID is missing on pages loaded by plain http. */
const randomKey = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
