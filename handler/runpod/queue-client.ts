/** A worker's requests to RunPod's queue. Their URLs come from the environment. */
import { once } from 'node:events';
import http from 'node:http';
import https from 'node:https';
import { text as readText } from 'node:stream/consumers';
import { SECOND } from '../../core/time.ts';

/** A job as RunPod gives it, which may add fields. */
export interface TakenJob {
  id: string;
  input: unknown;
  [field: string]: unknown;
}

export interface Take {
  jobs: TakenJob[];
  /** ids of jobs that can't be run */
  withoutInput: string[];
  /** how many entries have no id */
  malformed: number;
}

const POLL_TIMEOUT = 90 * SECOND; // the server holds a poll until it has an answer
const POST_TIMEOUT = 30 * SECOND;
const REPORT_TIMEOUT = 2 * SECOND;

export type Queue = ReturnType<typeof openQueue>;

/**
 * @param env with the variables that RunPod sets for its workers
 * @throws Error that names a missing variable
 */
export function openQueue(env: NodeJS.ProcessEnv) {
  const { RUNPOD_POD_ID: workerId = crypto.randomUUID(), RUNPOD_AI_API_KEY: key = '' } = env;
  const { RUNPOD_WEBHOOK_POST_OUTPUT: outputUrl, RUNPOD_WEBHOOK_POST_STREAM: streamUrl } = env;
  if (!outputUrl) throw new Error('RUNPOD_WEBHOOK_POST_OUTPUT is not set: RunPod sets it for its workers');
  const headers = { authorization: key, 'content-type': 'application/json' };
  const expand = (url: string, jobId = workerId) => url.replaceAll('$RUNPOD_POD_ID', workerId).replaceAll('$ID', jobId);
  const takeUrl = expand(env.RUNPOD_WEBHOOK_GET_JOB!);
  /** The URL of another operation, which RunPod does not give: undefined where it can't be derived. */
  const sibling = (operation: string) =>
    takeUrl.includes('/job-take/') ? takeUrl.replace('/job-take/', `/${operation}/`) : undefined;
  const stopUrl = sibling('job-stop');
  const batchUrl = sibling('job-take-batch');
  const pingUrl = env.RUNPOD_WEBHOOK_PING && key ? expand(env.RUNPOD_WEBHOOK_PING) : undefined;

  const poll = (url: string, signal: AbortSignal) => send(url, { headers, timeout: POLL_TIMEOUT, signal });

  async function post(url: string, jobId: string, body: string): Promise<number> {
    const { status } = await send(url, {
      method: 'POST',
      headers: {
        authorization: key,
        charset: 'utf-8',
        'content-type': 'application/x-www-form-urlencoded', // as RunPod's Python worker, although the body is JSON
        'x-request-id': jobId,
      },
      body,
      timeout: POST_TIMEOUT,
    });
    return status;
  }

  return {
    workerId,

    /**
     * A long poll for at most `count` jobs.
     * @param busy whether a job is active
     * @throws Error: the answer is unusable, or `signal` was aborted before one began to arrive
     */
    async take(count: number, busy: boolean, signal: AbortSignal): Promise<Take | 'empty' | 'throttled'> {
      const query = { job_in_progress: busy ? '1' : '0' };
      const isBatch = count > 1 && batchUrl;
      const url = isBatch ? withQuery(batchUrl, { batch_size: String(count), ...query }) : withQuery(takeUrl, query);
      const answer = await poll(url, signal).catch((error) => {
        if (error.name === 'TimeoutError') return undefined;
        throw error;
      });
      if (answer?.status === 429) return 'throttled';
      if (!answer || answer.status === 204 || answer.status === 400) return 'empty'; // 400: usual under FlashBoot
      if (!(answer.status >= 200 && answer.status < 300)) throw new Error(`job-take answered ${answer.status}`);
      return answer.text === '' ? 'empty' : parseTake(JSON.parse(answer.text));
    },

    /**
     * Posts a job's outcome, or with status IN_PROGRESS its progress.
     * @param isStream whether the job's handler is a generator
     * @returns the status of the answer
     */
    post: (jobId: string, body: string, isStream = false): Promise<number> =>
      post(withQuery(expand(outputUrl, jobId), { isStream: String(isStream) }), jobId, body),

    /** Posts one chunk of a job's output; undefined where RunPod has set no URL for them. */
    postChunk: streamUrl
      ? (jobId: string, body: string): Promise<number> =>
          post(withQuery(expand(streamUrl, jobId), { isStream: 'false' }), jobId, body) // as RunPod's Python worker
      : undefined,

    /** The URL and key of pings; undefined where RunPod has not set both. */
    pings: pingUrl === undefined ? undefined : { url: pingUrl, key },

    /** Reports to RunPod that this worker has failed a fitness check and will end. Never rejects. */
    async reportUnhealthy(check: string, reason: string): Promise<void> {
      if (!pingUrl) return;
      const url = withQuery(pingUrl, { status: 'unhealthy', check, reason: reason.slice(0, 256) });
      await send(url, { headers: { authorization: key }, timeout: REPORT_TIMEOUT }).catch(
        () => {}, // the worker ends anyway, with the check's error
      );
    },

    /**
     * A long poll for the ids of jobs to stop; undefined where its URL can't be derived.
     * @throws Error: the answer is unusable
     */
    pollStops: stopUrl
      ? async (signal: AbortSignal): Promise<string[] | 'throttled'> => {
          const { status, text } = await poll(stopUrl, signal);
          if (status === 429) return 'throttled';
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
  /** milliseconds for the whole exchange */
  timeout: number;
  signal?: AbortSignal;
}

/**
 * Resolves to a complete answer. Rejects with a TimeoutError, or when the signal is aborted. Once an answer has begun to arrive, the signal
 * has no effect, for the answer may contain a job. Not fetch, which takes three times the CPU time and 25 MB.
 */
async function send(url: string, { timeout, signal, body, ...options }: Message) {
  signal?.throwIfAborted();
  const isSecure = url.startsWith('https:');
  const call = (isSecure ? https : http).request(url, { ...options, agent: isSecure ? agents.https : agents.http });
  const abort = () => call.destroy(signal!.reason);
  const timer = setTimeout(() => call.destroy(new DOMException('no answer in time', 'TimeoutError')), timeout);
  signal?.addEventListener('abort', abort);
  try {
    call.end(body);
    const [response] = (await once(call, 'response')) as [http.IncomingMessage];
    signal?.removeEventListener('abort', abort);
    call.on('error', () => {}); // the response has the error, too
    return { status: response.statusCode!, text: await readText(response) };
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', abort);
  }
}

/** @param answer one job or a list, whichever was requested */
function parseTake(answer: unknown): Take | 'empty' {
  const entries = Array.isArray(answer) ? answer : [answer];
  if (entries.length === 0) return 'empty';
  const valid = entries.filter((entry): entry is { id: string; input?: unknown } => typeof entry?.id === 'string');
  return {
    jobs: valid.filter((entry): entry is TakenJob => entry.input != null),
    withoutInput: valid.filter(({ input }) => input == null).map(({ id }) => id),
    malformed: entries.length - valid.length,
  };
}

/** RunPod's URLs may have a query already, or end with a bare `?`. */
function withQuery(url: string, query: Record<string, string>): string {
  const added = new URLSearchParams(query).toString();
  return url + (url.includes('?') ? (url.endsWith('?') ? '' : '&') : '?') + added;
}
