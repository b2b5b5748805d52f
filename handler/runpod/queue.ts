/** RunPod's queue as a worker meets it: a few addresses from the environment, and what may be sent to each. */

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
  | { status: 'job'; job: TakenJob }
  | { status: 'empty' }
  | { status: 'slow down' }
  | { status: 'error'; error: Error };

const POLL_TIMEOUT = 90_000; // the server holds a poll until there is something to say
const POST_TIMEOUT = 30_000;
const REPORT_TIMEOUT = 2000;

export type Queue = ReturnType<typeof openQueue>;

export function openQueue(env: QueueEnvironment) {
  const workerId = env.RUNPOD_POD_ID ?? crypto.randomUUID();
  const key = env.RUNPOD_AI_API_KEY ?? '';
  const headers = { authorization: key, 'content-type': 'application/json' };
  const fill = (url: string, jobId = workerId) => url.replaceAll('$RUNPOD_POD_ID', workerId).replaceAll('$ID', jobId);
  const takeUrl = fill(env.RUNPOD_WEBHOOK_GET_JOB);
  const stopUrl = takeUrl.includes('/job-take/') ? takeUrl.replace('/job-take/', '/job-stop/') : undefined;
  const pingUrl = env.RUNPOD_WEBHOOK_PING && key ? fill(env.RUNPOD_WEBHOOK_PING) : undefined;

  const poll = (url: string, signal: AbortSignal) => get(url, headers, POLL_TIMEOUT, signal);

  const streamUrl = env.RUNPOD_WEBHOOK_POST_STREAM;

  async function post(url: string, jobId: string, body: string): Promise<number> {
    const response = await fetch(url, {
      method: 'POST',
      headers: {
        authorization: key,
        charset: 'utf-8',
        'content-type': 'application/x-www-form-urlencoded', // as RunPod's own worker says, although the body is JSON
        'x-request-id': jobId,
      },
      body,
      signal: AbortSignal.timeout(POST_TIMEOUT),
    });
    await response.arrayBuffer();
    return response.status;
  }

  return {
    workerId,

    /** One held poll for a job. Rejects only when `signal` is aborted. */
    async take(busy: boolean, signal: AbortSignal): Promise<Take> {
      try {
        const { response, text } = await poll(withQuery(takeUrl, { job_in_progress: busy ? '1' : '0' }), signal);
        if (response.status === 429) return { status: 'slow down' };
        if (response.status === 204 || response.status === 400) return { status: 'empty' }; // 400: usual under FlashBoot
        if (!response.ok) return { status: 'error', error: new Error(`job-take answered ${response.status}`) };
        if (text === '') return { status: 'empty' };
        const job: unknown = JSON.parse(text);
        if (isJob(job)) return { status: 'job', job };
        return { status: 'error', error: new Error('job-take gave a job without id or input') };
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
      await fetch(url, { headers: { authorization: key }, signal: AbortSignal.timeout(REPORT_TIMEOUT) }).catch(
        () => {},
      );
    },

    /** One held poll for jobs that shall stop; undefined where this queue has none. */
    stops: stopUrl
      ? async (signal: AbortSignal): Promise<string[]> => {
          const { response, text } = await poll(stopUrl, signal);
          if (response.status === 204 || text === '') return [];
          if (!response.ok) throw new Error(`job-stop answered ${response.status}`);
          const body: unknown = JSON.parse(text);
          const ids = typeof body === 'object' && body !== null && 'jobsToStop' in body ? body.jobsToStop : [];
          return Array.isArray(ids) ? ids.filter((id) => typeof id === 'string') : [];
        }
      : undefined,
  };
}

/** A whole answer, or a rejection: TimeoutError after `ms`, or when the signal is aborted. */
async function get(url: string, headers: Record<string, string>, ms: number, signal: AbortSignal) {
  const timeout = new AbortController(); // AbortSignal.timeout is lost to the garbage collector within AbortSignal.any (Node 20)
  const timer = setTimeout(() => timeout.abort(new DOMException('no answer in time', 'TimeoutError')), ms);
  try {
    const response = await fetch(url, { headers, signal: AbortSignal.any([signal, timeout.signal]) });
    return { response, text: await response.text() };
  } finally {
    clearTimeout(timer);
  }
}

function isJob(value: unknown): value is TakenJob {
  return (
    typeof value === 'object' &&
    value !== null &&
    'id' in value &&
    typeof value.id === 'string' &&
    'input' in value &&
    value.input != null
  );
}

/** RunPod's addresses come with a query of their own, some with a bare `?`. */
function withQuery(url: string, query: Record<string, string>): string {
  const added = new URLSearchParams(query).toString();
  if (added === '') return url;
  return url + (url.includes('?') ? (url.endsWith('?') ? '' : '&') : '?') + added;
}
