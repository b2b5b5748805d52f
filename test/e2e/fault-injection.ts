/**
 * For tests: what a worker and the API meet (RunPod's queue, a Midjourney bridge) on loopback, with faults in front of it, and processes
 * of both that can be killed. Nothing waits for a time to pass: whatever happens wakes whoever waits for a condition.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import { mkdir, readdir } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { type Context, Hono } from 'hono';
import sharp from 'sharp';
import { getJson } from '../../core/bucket/bucket.ts';
import { diskBucket } from '../../core/bucket/disk.ts';
import { bucketFolder } from '../../core/environment.ts';
import { type Stage, taskFolder } from '../../core/job.ts';
import { SECOND } from '../../core/time.ts';
import { freePort } from '../../infra/run/free-port.ts';
import { tnlServer } from '../../infra/simulators/bridges/tnl.ts';
import type { Clock } from '../../infra/simulators/clock.ts';
import { queueServer } from '../../infra/simulators/runpod-queue-server.ts';
import { listen } from '../support/test-api.ts';

const KEY = 'test-key';
/** the workers'; the API names itself instead, so that it is known who asks */
const ENDPOINT = 'ep';
const ROOT = fileURLToPath(new URL('../..', import.meta.url));
/** For what must happen, however busy the machine. */
const PATIENCE = 25 * SECOND;

/** What is asked for under which name. */
const OPERATIONS = {
  // workers of RunPod
  'job-take': 'take',
  'job-take-batch': 'take',
  'job-stop': 'stop',
  ping: 'ping',
  // the API of RunPod
  run: 'submit',
  status: 'status',
  cancel: 'cancel',
  // workers of the bridge
  imagine: 'imagine',
  message: 'look',
  pictures: 'picture',
} as const;

/** One request on its way. */
export interface Asked {
  operation: (typeof OPERATIONS)[keyof typeof OPERATIONS] | 'outcome' | 'progress' | 'callback';
  /** the worker that asks, or the API; of a callback the API that is asked */
  by: string;
  /** RunPod's id of the job, but for take and submit; the bridge's, for look and picture */
  id: string;
  body: Record<string, unknown>;
}

/** What becomes of a request: an answer instead of the true one, or nothing for that. `pass` asks the true end. */
export type Fault = (pass: () => Promise<void>, c: Context) => Promise<Response | undefined>;

export const answer =
  (status: number, text = ''): Fault =>
  async () =>
    new Response(status === 204 ? null : text, { status });
export const json = (value: unknown) => answer(200, JSON.stringify(value));
/** The connection breaks before the true end has heard of it. */
export const reset: Fault = async (_pass, c) => hangUp(c);
/** The true end has heard, and its answer is lost. */
export const resetAfter: Fault = async (pass, c) => {
  await pass();
  return hangUp(c);
};
/** A true answer, but not before the promise is kept. */
export const after =
  (promise: () => Promise<unknown>): Fault =>
  async (pass) => {
    await promise();
    await pass();
    return undefined;
  };

function hangUp(c: Context): Response {
  (c.env as { incoming: IncomingMessage }).incoming.socket.destroy();
  return RESPONSE_ALREADY_SENT;
}

/** An outcome that was posted and came as far as the queue. */
interface Outcome {
  worker: string;
  body: string;
  /** whether it ended the job */
  accepted: boolean;
}

/** What a job is and what has been seen of it. */
export interface Job {
  id: string;
  taskId: string;
  outcomes: Outcome[];
  /** bodies of all outcomes that were posted, by worker; also of those that did not get through */
  posted: Map<string, string[]>;
  /** RunPod's callbacks: one an end, but none of a job that was cancelled */
  ends: string[];
  /** how the queue showed it when it had ended */
  atEnd?: string;
}

interface Line {
  message: string;
  stage?: Stage;
  requestId?: string;
}

export interface Process {
  readonly id: string;
  /** Whether it has come so far that it can be asked to end. */
  isReady(): boolean;
  isAlive(): boolean;
  /** The code with which it has ended, if that is none of those that are wanted. */
  failure(): number | undefined;
  kill(signal: 'SIGTERM' | 'SIGKILL'): void;
  /** Its last words. */
  tail(): string;
  /** Waits for its end. Of a worker's RunPod learns when nothing that it has sent is on its way any more. */
  ended(patience?: number): Promise<{ code: number | null; signal: string | null }>;
  /** Whether a process of its group still lives. */
  hasRemains(): boolean;
}

export interface WorkerProcess extends Process {
  /** Told of each stage at once when it begins. */
  onStage(listener: (jobId: string, stage: Stage) => void): void;
  hasBegun(job: Job, stage: Stage): boolean;
}

export interface ApiProcess extends Process {
  url: string;
}

export interface SceneOptions {
  /** of the queue; the real one unless given */
  clock?: Clock;
  /** how long a worker's poll is held, by that clock; milliseconds */
  hold?: number;
  /** how long a worker may be silent, by that clock; milliseconds */
  workerTimeout?: number;
}

export type Scene = Awaited<ReturnType<typeof openScene>>;

/** @param folder an empty one, for what the processes keep, and for their temporary files */
export async function openScene(folder: string, { hold = 10 * SECOND, ...options }: SceneOptions = {}) {
  const dataDir = join(folder, 'data');
  const temporary = join(folder, 'tmp');
  await mkdir(temporary);
  const bus = new EventEmitter().setMaxListeners(0);
  const changed = () => bus.emit('change');
  const jobs = new Map<string, Job>();
  const workers: WorkerProcess[] = [];
  const processes: Process[] = []; // all of them
  const ends: Promise<unknown>[] = []; // theirs
  const apis = new Map<string, string>(); // where they listen, by the name that stays when one is started again
  const given = new Map<string, Set<string>>(); // jobs that a worker has been given
  const payments: string[] = []; // the tasks that the bridge was asked for
  const inFlight = new Map<string, number>(); // requests, by worker
  const stopPolls = new Map<string, { asked: number; told: Map<string, number>; open: number }>();
  const control: { fault: (asked: Asked) => Fault | undefined } = { fault: () => undefined };

  const dot = await sharp({
    create: { width: 64, height: 64, channels: 3, noise: { type: 'gaussian', mean: 128, sigma: 40 } } as never,
  })
    .png()
    .toBuffer();
  const { app: queueApp, queue, close: closeQueue } = queueServer({ apiKey: KEY, pollTimeout: hold, ...options });
  const { app: bridgeApp } = tnlServer({ apiKey: KEY, duration: 0, draw: async () => dot });
  const bucket = await diskBucket(bucketFolder(dataDir), { publicUrl: '' });

  const app = new Hono();
  app.use(async (c, next) => {
    const asked = await readAsked(c);
    if (!asked) return next();
    inFlight.set(asked.by, (inFlight.get(asked.by) ?? 0) + 1);
    let passed = false;
    const pass = async () => {
      passed = true;
      await observe(asked, c, next);
    };
    try {
      const fault = control.fault(asked);
      const instead = await fault?.(pass, c);
      if (instead) return instead;
      if (!passed) await pass();
    } finally {
      inFlight.set(asked.by, inFlight.get(asked.by)! - 1);
      changed();
    }
  });
  app.post('/ended', async (c) => {
    const { id, status } = await c.req.json();
    const job = jobs.get(id)!;
    job.ends.push(status);
    job.atEnd ??= seen(job);
    changed();
    return c.body(null, 200);
  });
  app.all('/:api{api-\\d+}/*', async (c) => {
    const { pathname, search } = new URL(c.req.url);
    const { method } = c.req;
    const headers = { 'content-type': c.req.header('content-type') ?? '' };
    const body = method === 'POST' ? await c.req.text() : null;
    const path = pathname.slice(pathname.indexOf('/', 1)) + search;
    const answer = await fetch(apis.get(c.req.param('api')) + path, { method, headers, body }).catch(() => undefined);
    return answer ? new Response(answer.body, { status: answer.status }) : hangUp(c);
  });
  app.route('/v2', queueApp).route('/bridge/v2', bridgeApp);
  const server = await listen(app);

  /** Passes a request on and notes what it did. */
  async function observe({ operation, by, id, body }: Asked, c: Context, next: () => Promise<void>) {
    const before = queue.find(id);
    const wasOwn = before?.status === 'IN_PROGRESS' && before.workerId === by;
    if (operation === 'imagine') payments.push(String(body.ref));
    if (operation === 'stop') {
      const polls = stopPolls.get(by) ?? { asked: 0, told: new Map(), open: 0 };
      stopPolls.set(by, polls);
      polls.asked++;
      polls.open++;
      changed();
    }
    await next();
    if (operation === 'stop') stopPolls.get(by)!.open--;
    if (operation === 'outcome') {
      const accepted = wasOwn && isEnded(queue.find(id)!.status);
      jobs.get(id)?.outcomes.push({ worker: by, body: JSON.stringify(body), accepted });
    }
    if (operation === 'stop' && c.res.status === 200) {
      const { jobsToStop } = await c.res.clone().json();
      const polls = stopPolls.get(by)!;
      for (const stopped of jobsToStop) polls.told.set(stopped, polls.asked);
    }
    if (c.res.status !== 200) return;
    if (operation === 'submit') {
      const { id } = await c.res.clone().json();
      const taskId = String((body.input as { task_id?: unknown }).task_id);
      jobs.set(id, { id, taskId, outcomes: [], posted: new Map(), ends: [] });
    }
    if (operation === 'take') {
      const taken: { id: string }[] = [await c.res.clone().json()].flat();
      for (const { id } of taken) noteGiven(by, id);
    }
  }

  function noteGiven(worker: string, jobId: string) {
    given.set(worker, (given.get(worker) ?? new Set()).add(jobId));
  }

  async function readAsked(c: Context): Promise<Asked | undefined> {
    const [, side = '', ...path] = c.req.path.split('/');
    const body = c.req.method === 'POST' ? await c.req.json().catch(() => ({})) : {};
    if (apis.has(side)) {
      if (path[1] !== 'callback') return undefined;
      return { operation: 'callback', by: side, id: String(body.id), body };
    }
    const [endpoint = '', what = '', first = '', second = ''] = path;
    if (what === 'job-done') {
      const operation = body.status === 'IN_PROGRESS' ? 'progress' : 'outcome';
      if (operation === 'outcome') {
        const posted = jobs.get(second)?.posted;
        posted?.set(first, [...(posted.get(first) ?? []), await c.req.text()]);
      }
      return { operation, by: first, id: second, body };
    }
    const operation = OPERATIONS[what as keyof typeof OPERATIONS];
    if (!operation) return undefined;
    if (side === 'bridge') return { operation, by: '', id: first, body };
    if (endpoint !== ENDPOINT) return { operation, by: endpoint, id: first, body };
    return { operation, by: first, id: second, body };
  }

  /** As if the two minutes had passed in which the next worker waits for what a dead one has asked a bridge. */
  async function ageAskings(workerId: string) {
    for (const job of jobs.values()) {
      const key = `${taskFolder(job.taskId)}/imagine.json`;
      const record = given.get(workerId)?.has(job.id) && (await getJson(bucket, key));
      if (record) await bucket.put(key, JSON.stringify({ ...record, asked_at: 0 }));
    }
  }

  const isEnded = (status: string) => status !== 'IN_QUEUE' && status !== 'IN_PROGRESS';
  function seen({ id }: Job) {
    const { status, output, error, ended, workerId } = queue.find(id)!;
    return JSON.stringify({ status, output, error, ended, workerId });
  }

  /** Waits for something that isn't undefined or false; everything that happens makes it look again. */
  async function until<T>(look: () => T | undefined | false, what: string, patience = PATIENCE): Promise<T> {
    const late = AbortSignal.timeout(patience);
    for (;;) {
      const found = look();
      if (found !== undefined && found !== false) return found as T;
      const failed = processes.find(({ failure }) => failure() !== undefined);
      if (failed) throw new Error(`${failed.id} ended with ${failed.failure()}\n${failed.tail()}`);
      await once(bus, 'change', { signal: late }).catch(() => {
        throw new Error(`waited in vain for ${what}\n${lastWords()}`);
      });
    }
  }

  /** Of every process that lives, and of the last that have ended. */
  const lastWords = () =>
    processes
      .filter(({ isAlive }, i) => isAlive() || i >= processes.length - 4)
      .map(({ id, tail }) => `${id}:\n${tail()}`)
      .join('\n');

  const statusOf = ({ id }: Job) => queue.find(id)!.status;

  function submit(change: Record<string, unknown> = {}, taskId: string = randomUUID()): Job {
    const input = {
      ...{ task_id: taskId, model: 'camera', prompt: 'a lighthouse', H: 64, W: 64, T: 2, fps: 6, seed: 3, steps: 2 },
      ...{ cond_aug: 0.02, decoding_t: 2, motion_bucket_id: 127, num_cols: 2, image_index: 1, fit: 'cover' },
      ...{ sampler: 'DPMPP2MSampler', discretization: 'LegacyDDPMDiscretization', guider: 'IdentityGuider' },
      ...change,
    };
    return submitAny(input, taskId);
  }

  /** Also what our API would never send. */
  function submitAny(input: unknown, taskId = '', webhook = `${server.url}/ended`): Job {
    const { id } = queue.submit({ input: structuredClone(input), webhook });
    const job: Job = { id, taskId, outcomes: [], posted: new Map(), ends: [] };
    jobs.set(id, job);
    return job;
  }

  interface ProcessOptions {
    entry: string;
    env: Record<string, string | undefined>;
    /** modules that are loaded before */
    preload?: string[];
    /** what it says when it is ready */
    ready: string;
    onLine?: (line: Line) => void;
  }

  /** A process of ours, in a group of its own by which every process can be found that it may have started. */
  function startProcess(id: string, { entry, env, preload = [], ready, onLine }: ProcessOptions) {
    const imports = ['tsx', ...preload].flatMap((module) => ['--import', module]);
    const child: ChildProcess = spawn(process.execPath, [...imports, entry], {
      cwd: ROOT,
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'], // by the channel it learns that this process has gone
      env: { PATH: process.env.PATH, TMPDIR: temporary, DATA_DIR: dataDir, MODEL: 'camera', ...env },
    });
    const lines: string[] = [];
    let isReady = false;
    let errors = '';
    let end: { code: number | null; signal: string | null } | undefined;
    createInterface(child.stdout!).on('line', (text) => {
      const line: Line = text.startsWith('{') ? JSON.parse(text) : { message: text };
      lines.push(text);
      if (lines.length > 50) lines.shift();
      isReady ||= line.message === ready;
      onLine?.(line);
      changed();
    });
    child.stderr!.setEncoding('utf8').on('data', (text) => {
      errors = (errors + text).slice(-2000);
    });
    child.on('close', (code, signal) => {
      end = { code, signal };
      changed();
    });
    ends.push(once(child, 'close'));
    const started: Process = {
      id,
      isReady: () => isReady,
      isAlive: () => end === undefined,
      failure: () => end?.code || undefined,
      kill: (signal) => void child.kill(signal),
      tail: () => [...lines.slice(-20), errors].join('\n'),
      ended: (patience) => until(() => end, `the end of ${id}`, patience),
      hasRemains() {
        try {
          return process.kill(-child.pid!, 0);
        } catch {
          return false; // no such group
        }
      },
    };
    processes.push(started);
    return started;
  }

  function startWorker(env: Record<string, string> = {}): WorkerProcess {
    const id = `worker-${workers.length + 1}`;
    const at = `${server.url}/v2/${ENDPOINT}`;
    const begun = new Set<string>();
    const listeners: ((jobId: string, stage: Stage) => void)[] = [];
    const started = startProcess(id, {
      entry: 'handler/index.ts',
      ready: 'serving',
      env: {
        RUNPOD_LOG_LEVEL: 'DEBUG',
        ...{ MIDJOURNEY_BRIDGE: 'tnl', MIDJOURNEY_API_KEY: KEY, MIDJOURNEY_BASE_URL: `${server.url}/bridge/v2` },
        RUNPOD_POD_ID: id,
        RUNPOD_AI_API_KEY: KEY,
        RUNPOD_WEBHOOK_GET_JOB: `${at}/job-take/$ID?gpu=none`,
        RUNPOD_WEBHOOK_POST_OUTPUT: `${at}/job-done/$RUNPOD_POD_ID/$ID?gpu=none`,
        RUNPOD_WEBHOOK_PING: `${at}/ping/$RUNPOD_POD_ID`,
        RUNPOD_PING_INTERVAL: '500',
        ...env,
      },
      onLine({ message, stage, requestId }) {
        if (message !== 'stage started') return;
        begun.add(`${requestId} ${stage}`);
        for (const hear of listeners) hear(requestId!, stage!);
      },
    });
    const worker: WorkerProcess = {
      ...started,
      onStage: (listener) => void listeners.push(listener),
      hasBegun: (job, stage) => begun.has(`${job.id} ${stage}`),
      async ended(patience) {
        const ended = await started.ended(patience);
        await until(() => !inFlight.get(id), `the last request of ${id}`);
        if (ended.signal === 'SIGKILL') await ageAskings(id);
        queue.workerLost(id);
        changed();
        return ended;
      },
    };
    workers.push(worker);
    return worker;
  }

  /**
   * An API process. Callers reach it at its `url`; RunPod and whoever has a link by way of this scene, also while it is away.
   * @param name stays when it is started again, and so does its port
   */
  async function startApi(name: string, env: Record<string, string> = {}, preload: string[] = []): Promise<ApiProcess> {
    const url = apis.get(name) ?? `http://127.0.0.1:${await freePort()}`;
    apis.set(name, url);
    const started = startProcess(name, {
      entry: 'api/index.ts',
      ready: 'listening',
      preload,
      env: {
        PORT: new URL(url).port,
        PUBLIC_URL: `${server.url}/${name}`,
        RUNPOD_API_KEY: KEY,
        RUNPOD_ENDPOINT_ID: name,
        RUNPOD_BASE_URL: `${server.url}/v2`,
        ALLOW_PRIVATE_URLS: '1',
        ...env,
      },
    });
    return { ...started, url };
  }

  return {
    control,
    queue,
    bucket,
    /** a PNG */
    picture: dot,
    dataDir,
    jobs,
    workers,
    processes,
    lastWords,
    startApi,
    submit,
    submitAny,
    startWorker,
    until,
    statusOf,
    changed,

    /** Cancels a job at RunPod. */
    cancel(job: Job) {
      queue.cancel(queue.find(job.id)!);
      job.atEnd ??= seen(job);
      changed();
    },

    /** Waits until RunPod can tell the worker at once what to stop. */
    listens: (worker: WorkerProcess) =>
      until(() => (stopPolls.get(worker.id)?.open ?? 0) > 0, `${worker.id} to ask what to stop`),

    /** Waits until the worker has been told to stop the job, and has asked again: it knows. */
    hasStopped: (worker: WorkerProcess, job: Job) =>
      until(() => {
        const polls = stopPolls.get(worker.id);
        const told = polls?.told.get(job.id);
        return told !== undefined && polls!.asked > told;
      }, `${worker.id} to hear that it shall stop`),

    /** Waits for the job's end, and for RunPod's callback. */
    ended: (job: Job, patience?: number) =>
      until(
        () => isEnded(statusOf(job)) && (statusOf(job) === 'CANCELLED' || job.ends.length > 0) && statusOf(job),
        `the end of job ${job.id}`,
        patience,
      ),

    /** Whether the worker has, or may have, the job in hand: of a cancelled one RunPod does not hear when it is let go. */
    isHeldBy({ id }: Job, worker: WorkerProcess) {
      const { status, workerId } = queue.find(id)!;
      return (status === 'IN_PROGRESS' || status === 'CANCELLED') && workerId === worker.id;
    },

    /** RunPod gives a job to one more worker. */
    giveTwice(worker: string, jobId: string): Response {
      noteGiven(worker, jobId);
      const { id, input, webhook } = queue.find(jobId)!;
      return Response.json({ id, input, webhook });
    },

    wasGiven: (worker: string, jobId: string) => given.get(worker)?.has(jobId) ?? false,

    imagines: (job: Job) => payments.filter((taskId) => taskId === job.taskId).length,

    /** The objects in the task's folder, the job's own below `job/`. */
    async objects(job: Job): Promise<string[]> {
      const names = await readdir(join(bucketFolder(dataDir), 'objects', taskFolder(job.taskId)), {
        recursive: true,
        withFileTypes: true,
      }).catch(() => []); // nothing was written yet
      const root = join(bucketFolder(dataDir), 'objects', taskFolder(job.taskId));
      return names
        .filter((entry) => entry.isFile())
        .map((entry) =>
          join(entry.parentPath, entry.name)
            .slice(root.length + 1)
            .replace(job.id, 'job'),
        )
        .sort();
    },

    /** What lies about that belongs to no living job: unfinished objects, temporary files. */
    async litter(): Promise<string[]> {
      const unfinished = await readdir(join(bucketFolder(dataDir), 'tmp'));
      const scratch = (await readdir(temporary)).filter((name) => !name.startsWith('tsx-')); // the compiler's own
      return [...unfinished, ...scratch];
    },

    /** How the queue shows the job now, to be compared with `atEnd`. */
    seen,

    async close() {
      control.fault = () => undefined;
      for (const { kill } of processes) kill('SIGKILL');
      await Promise.all(ends);
      for (const { id } of workers) queue.workerLost(id);
      closeQueue();
      await server.close();
    },
  };
}
