/** RunPod's queue as a worker meets it: a few addresses from the environment, and what may be sent to each. */
import http from 'node:http';
import https from 'node:https';

/** The environment that RunPod gives a worker. */
export interface QueueEnvironment {
  RUNPOD_WEBHOOK_GET_JOB: string;
  RUNPOD_WEBHOOK_POST_OUTPUT: string;
  RUNPOD_WEBHOOK_POST_STREAM?: string | undefined;
  RUNPOD_WEBHOOK_PING?: string | undefined;
  RUNPOD_AI_API_KEY?: string | undefined;
  RUNPOD_POD_ID?: string | undefined;
}

/** A job as it was taken; RunPod may add fields. */
export interface TakenJob {
  id: string;
  input: unknown;
  [field: string]: unknown;
}

export type Take =
  /** `withoutInput`: ids of jobs that can't be run; `unreadable`: how many more were given that are not jobs at all */
  | { status: 'jobs'; jobs: TakenJob[]; withoutInput: string[]; unreadable: number }
  | { status: 'empty' }
  | { status: 'slow down' }
  | { status: 'error'; error: Error };

const POLL_TIMEOUT = 90_000; // milliseconds: the server holds a poll until there is something to say
const POST_TIMEOUT = 30_000;
const REPORT_TIMEOUT = 2000;

export type Queue = ReturnType<typeof openQueue>;

export function openQueue(env: QueueEnvironment) {
  const workerId = env.RUNPOD_POD_ID ?? crypto.randomUUID();
  const key = env.RUNPOD_AI_API_KEY ?? '';
  const headers = { authorization: key, 'content-type': 'application/json' };
  const fill = (url: string, jobId = workerId) => url.replaceAll('$RUNPOD_POD_ID', workerId).replaceAll('$ID', jobId);
  const takeUrl = fill(env.RUNPOD_WEBHOOK_GET_JOB);
  const hasTake = takeUrl.includes('/job-take/'); // only then the addresses beside it can be told
  const stopUrl = hasTake ? takeUrl.replace('/job-take/', '/job-stop/') : undefined;
  const batchUrl = hasTake ? takeUrl.replace('/job-take/', '/job-take-batch/') : undefined;
  const pingUrl = env.RUNPOD_WEBHOOK_PING && key ? fill(env.RUNPOD_WEBHOOK_PING) : undefined;

  const poll = (url: string, signal: AbortSignal) => send(url, { headers, ms: POLL_TIMEOUT, signal });

  const streamUrl = env.RUNPOD_WEBHOOK_POST_STREAM;

  async function post(url: string, jobId: string, body: string): Promise<number> {
    const { status } = await send(url, {
      method: 'POST',
      headers: {
        authorization: key,
        charset: 'utf-8',
        'content-type': 'application/x-www-form-urlencoded', // as RunPod's own worker says, although the body is JSON
        'x-request-id': jobId,
      },
      body,
      ms: POST_TIMEOUT,
    });
    return status;
  }

  return {
    workerId,

    /**
     * One held poll for at most `count` jobs. Rejects only when `signal` is aborted before an answer begins to arrive.
     * @param busy whether a job is in hand
     */
    async take(count: number, busy: boolean, signal: AbortSignal): Promise<Take> {
      const query = { job_in_progress: busy ? '1' : '0' };
      const url =
        count > 1 && batchUrl
          ? withQuery(batchUrl, { batch_size: String(count), ...query })
          : withQuery(takeUrl, query);
      try {
        const { status, text } = await poll(url, signal);
        if (status === 429) return { status: 'slow down' };
        if (status === 204 || status === 400) return { status: 'empty' }; // 400: usual under FlashBoot
        if (!(status >= 200 && status < 300))
          return { status: 'error', error: new Error(`job-take answered ${status}`) };
        return text === '' ? { status: 'empty' } : sorted(JSON.parse(text));
      } catch (error) {
        signal.throwIfAborted();
        if (error instanceof DOMException && error.name === 'TimeoutError') return { status: 'empty' };
        return { status: 'error', error: error instanceof Error ? error : new Error(String(error)) };
      }
    },

    /**
     * Posts a job's outcome, or with status IN_PROGRESS its progress. The body is sent as given: a repeat is byte-equal.
     * @param isStream whether the job has sent chunks before
     * @returns the status of the answer
     */
    post: (jobId: string, body: string, isStream = false): Promise<number> =>
      post(withQuery(fill(env.RUNPOD_WEBHOOK_POST_OUTPUT, jobId), { isStream: String(isStream) }), jobId, body),

    /** Posts one chunk of a job's output; undefined where this queue takes none. */
    postChunk: streamUrl
      ? (jobId: string, body: string): Promise<number> =>
          post(withQuery(fill(streamUrl, jobId), { isStream: 'false' }), jobId, body) // so says RunPod's own worker
      : undefined,

    /** Where pings go and the key that signs them, if RunPod gave both. */
    pings: pingUrl === undefined ? undefined : { url: pingUrl, key },

    /** Tells RunPod, at best, that this worker is not fit for work and is about to end. */
    async reportUnhealthy(check: string, reason: string): Promise<void> {
      if (!pingUrl) return;
      const url = withQuery(pingUrl, { status: 'unhealthy', check, reason: reason.slice(0, 256) });
      await send(url, { headers: { authorization: key }, ms: REPORT_TIMEOUT }).catch(
        () => {}, // the worker ends anyway, and says in its log why
      );
    },

    /**
     * One held poll for jobs that shall stop, where this queue has one.
     * @throws Error: no usable answer
     */
    stops: stopUrl
      ? async (signal: AbortSignal): Promise<string[] | 'slow down'> => {
          const { status, text } = await poll(stopUrl, signal);
          if (status === 429) return 'slow down';
          if (status === 204 || text === '') return [];
          if (!(status >= 200 && status < 300)) throw new Error(`job-stop answered ${status}`);
          const body: unknown = JSON.parse(text);
          const ids = typeof body === 'object' && body !== null && 'jobsToStop' in body ? body.jobsToStop : [];
          return Array.isArray(ids) ? ids.filter((id) => typeof id === 'string') : [];
        }
      : undefined,
  };
}

const agents = { http: new http.Agent({ keepAlive: true }), https: new https.Agent({ keepAlive: true }) };

interface Message {
  method?: 'GET' | 'POST';
  headers: Record<string, string>;
  body?: string;
  /** how long it may take, in milliseconds */
  ms: number;
  signal?: AbortSignal;
}

/**
 * A whole answer, or a rejection: TimeoutError after `ms`, or when the signal is aborted. An answer that has begun to arrive is read to
 * its end all the same, for it may hand over a job. Not fetch, which takes three times the processor's time and 25 MB.
 */
function send(url: string, { ms, signal, body, ...options }: Message): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const isSecure = url.startsWith('https:');
    const agent = isSecure ? agents.https : agents.http;
    const call = (isSecure ? https : http).request(url, { ...options, agent });
    const abort = () => call.destroy(signal!.reason);
    const timer = setTimeout(() => call.destroy(new DOMException('no answer in time', 'TimeoutError')), ms);
    const settle = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
    };
    const fail = (error: Error) => {
      settle();
      reject(error);
    };
    signal?.addEventListener('abort', abort);
    call.on('error', fail).on('response', (response) => {
      signal?.removeEventListener('abort', abort);
      let text = '';
      response
        .setEncoding('utf8')
        .on('data', (part: string) => {
          text += part;
        })
        .on('end', () => {
          settle();
          resolve({ status: response.statusCode!, text });
        })
        .on('error', fail);
    });
    call.end(body);
  });
}

/** One job or a list of them, whichever was asked for: what was given decides. */
function sorted(answer: unknown): Take {
  const given = Array.isArray(answer) ? answer : [answer];
  if (given.length === 0) return { status: 'empty' };
  const named = given.filter((one): one is { id: string; input?: unknown } => typeof one?.id === 'string');
  return {
    status: 'jobs',
    jobs: named.filter((one): one is TakenJob => one.input != null),
    withoutInput: named.filter(({ input }) => input == null).map(({ id }) => id),
    unreadable: given.length - named.length,
  };
}

/** RunPod's addresses come with a query of their own, some with a bare `?`. */
function withQuery(url: string, query: Record<string, string>): string {
  const added = new URLSearchParams(query).toString();
  if (added === '') return url;
  return url + (url.includes('?') ? (url.endsWith('?') ? '' : '&') : '?') + added;
}
