/**
 * RunPod's queue and a bridge on loopback with faults in front of them, and real API and worker processes that can be killed.
 * Nothing waits for a time to pass: every change wakes all waits for a condition.
 */
import { randomUUID } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type Context, Hono } from 'hono';
import sharp from 'sharp';
import { type DiskBucket, diskBucket } from '../../core/bucket/disk.ts';
import { bucketFolder } from '../../core/environment.ts';
import { imagineKey, type Stage, taskFolder } from '../../core/job.ts';
import { SECOND } from '../../core/time.ts';
import { freePort } from '../../infra/run/free-port.ts';
import { tnlServer } from '../../infra/simulators/bridges/tnl.ts';
import { type QueueServerOptions, queueServer, workerEnv } from '../../infra/simulators/runpod-queue-server.ts';
import { listen } from '../support/test-api.ts';
import { startProcess, type TestProcess } from './child-process.ts';
import { type Fault, hangUp, type Intercepted, passOn, readOperation, WORKERS_ENDPOINT } from './fault-injection.ts';

const KEY = 'test-key';
/** For what must happen, however busy the machine is. */
const TIMEOUT = 25 * SECOND;

/** A job and what has been seen of it. */
export interface TestJob {
  id: string;
  taskId: string;
  /** by the harness's clock */
  createdAt: number;
  /** the API that submitted it; undefined if the test did, or a fault */
  submittedBy: TestProcess | undefined;
  /** whether the API got the response to its submission */
  answered: boolean;
  /** whether the API has seen the job's status since */
  statusSeen: boolean;
  /** whether RunPod's last answer to the API was that it does not know the job */
  unknown: boolean;
  /** outcomes that reached the queue, and whether they ended the job */
  outcomes: { worker: string; accepted: boolean }[];
  /** bodies of all outcomes that were posted, by worker, including those that did not get through */
  posted: Map<string, string[]>;
  /** RunPod's callbacks: one for each end, but none for a job that was cancelled */
  ends: string[];
  /** its snapshot when it ended */
  atEnd?: string;
}

export interface WorkerProcess extends TestProcess {
  /** Calls the listener when a stage begins. */
  onStage(listener: (jobId: string, stage: Stage) => void): void;
  hasStarted(job: TestJob, stage: Stage): boolean;
}

export interface ApiProcess extends TestProcess {
  url: string;
}

/** Times are those of the clock; default: the real one. */
export type HarnessOptions = Pick<QueueServerOptions, 'clock' | 'pollTimeout' | 'workerTimeout'>;

/** A worker's polls for jobs to stop. */
interface StopPolls {
  count: number;
  open: number;
  /** the poll whose answer named the job to stop, by the job's id */
  answered: Map<string, number>;
}

export const hasEnded = (status: string) => status !== 'IN_QUEUE' && status !== 'IN_PROGRESS';

/** @param folder an empty one, for the processes' data and temporary files */
export async function openHarness(folder: string, options: HarnessOptions = {}): Promise<Harness> {
  await mkdir(join(folder, 'tmp'));
  const noise = { width: 64, height: 64, channels: 3, noise: { type: 'gaussian', mean: 128, sigma: 40 } } as never;
  const picture = await sharp({ create: noise }).png().toBuffer();
  const bucket = await diskBucket(bucketFolder(join(folder, 'data')), { publicUrl: '' });
  const harness = new Harness(folder, picture, bucket, options);
  await harness.listen();
  return harness;
}

export class Harness {
  /** chooses what happens to each request */
  fault: (request: Intercepted) => Fault | undefined = () => undefined;
  /** called when an API's submission has become a job, before the API gets the response */
  onSubmit: (job: TestJob) => void = () => {};
  readonly jobs = new Map<string, TestJob>();
  /** all workers and APIs, in the order of their starts */
  readonly workers: WorkerProcess[] = [];
  readonly apis: ApiProcess[] = [];
  readonly dataDir: string;
  readonly queue: ReturnType<typeof queueServer>['queue'];

  readonly #temporary: string;
  readonly #changes = new EventEmitter().setMaxListeners(0);
  readonly #queueServer: ReturnType<typeof queueServer>;
  #server!: Awaited<ReturnType<typeof listen>>;
  /** jobs that a worker has been given */
  readonly #given = new Map<string, Set<string>>();
  /** task ids, one for each picture that the bridge was asked for */
  readonly #payments: string[] = [];
  /** requests on their way, by worker */
  readonly #inFlight = new Map<string, number>();
  readonly #stopPolls = new Map<string, StopPolls>();

  /** @param picture a PNG */
  constructor(
    folder: string,
    readonly picture: Buffer,
    readonly bucket: DiskBucket,
    options: HarnessOptions,
  ) {
    this.dataDir = join(folder, 'data');
    this.#temporary = join(folder, 'tmp');
    this.#queueServer = queueServer({ apiKey: KEY, pollTimeout: 10 * SECOND, ...options });
    this.queue = this.#queueServer.queue;
  }

  async listen(): Promise<void> {
    const { app: bridge } = tnlServer({ apiKey: KEY, duration: 0, draw: async () => this.picture });
    const app = new Hono().use((c, next) => this.#intercept(c, next));
    app.post('/ended', async (c) => {
      const { id, status } = await c.req.json();
      const job = this.jobs.get(id)!;
      job.ends.push(status);
      job.atEnd ??= this.snapshot(job);
      this.notifyChange();
      return c.body(null, 200);
    });
    app.all('/:api{api-\\d+}/*', (c) => this.#forwardToApi(c));
    this.#server = await listen(app.route('/v2', this.#queueServer.app).route('/bridge/v2', bridge));
  }

  async close(): Promise<void> {
    this.fault = () => undefined;
    for (const { kill } of this.processes) kill('SIGKILL');
    await Promise.all(this.processes.map(({ closed }) => closed));
    for (const { id } of this.workers) this.queue.workerLost(id);
    this.#queueServer.close();
    await this.#server.close();
  }

  get processes(): TestProcess[] {
    return [...this.apis, ...this.workers];
  }

  /** The process with this id, which an API that is started again has in common with its predecessor. */
  findProcess = (id: string) => this.processes.findLast((process) => process.id === id);

  // Waiting.

  /** Wakes all waits for a condition. */
  readonly notifyChange = () => void this.#changes.emit('change');

  /** Waits until the condition gives something other than undefined or false. @throws Error if a process fails meanwhile */
  async waitFor<T>(condition: () => T | undefined | false, what: string, timeout = TIMEOUT): Promise<T> {
    const late = AbortSignal.timeout(timeout);
    for (;;) {
      const found = condition();
      if (found !== undefined && found !== false) return found as T;
      const failed = this.processes.find(({ exit }) => exit()?.code);
      if (failed) throw new Error(`${failed.id} ended with ${failed.exit()!.code}\n${failed.logTail()}`);
      await once(this.#changes, 'change', { signal: late }).catch(() => {
        throw new Error(`timed out waiting for ${what}\n${this.logTails()}`);
      });
    }
  }

  waitForExit = async (process: TestProcess, timeout?: number) => {
    const exit = await this.waitFor(() => process.exit(), `the end of ${process.id}`, timeout);
    if (this.workers.some(({ id }) => id === process.id)) await this.#noteWorkerExit(process.id, exit.signal);
    return exit;
  };

  /** Waits until RunPod can tell the worker at once what to stop. */
  waitForStopPoll(worker: WorkerProcess) {
    return this.waitFor(() => (this.#stopPolls.get(worker.id)?.open ?? 0) > 0, `a stop poll of ${worker.id}`);
  }

  /** Waits until the worker knows that it shall stop the job: an answer has named the job, and another poll has followed. */
  waitForStop(worker: WorkerProcess, job: TestJob) {
    return this.waitFor(() => {
      const polls = this.#stopPolls.get(worker.id);
      return polls !== undefined && polls.count > (polls.answered.get(job.id) ?? Infinity);
    }, `${worker.id} to learn that it shall stop`);
  }

  /** Waits for the job's end, and for RunPod's callback. */
  waitForEnd(job: TestJob, timeout?: number) {
    const isOver = (status: string) => hasEnded(status) && (status === 'CANCELLED' || job.ends.length > 0);
    const status = () => this.statusOf(job);
    return this.waitFor(() => isOver(status()) && status(), `the end of job ${job.id}`, timeout);
  }

  // Jobs.

  /** Queues a valid job with these changes to its input. */
  submit(changes: Record<string, unknown> = {}, taskId: string = randomUUID()): TestJob {
    const input = {
      ...{ task_id: taskId, model: 'camera', prompt: 'a lighthouse', H: 64, W: 64, T: 2, fps: 6, seed: 3, steps: 2 },
      ...{ cond_aug: 0.02, decoding_t: 2, motion_bucket_id: 127, num_cols: 2, image_index: 1, fit: 'cover' },
      ...{ sampler: 'DPMPP2MSampler', discretization: 'LegacyDDPMDiscretization', guider: 'IdentityGuider' },
      ...changes,
    };
    return this.submitAny(input, taskId);
  }

  /** Queues a job with any input, also one that our API would never send. */
  submitAny(input: unknown, taskId = '', webhook = `${this.#server.url}/ended`): TestJob {
    return this.#addJob(this.queue.submit({ input: structuredClone(input), webhook }).id, taskId);
  }

  #addJob(id: string, taskId: string, submittedBy?: TestProcess): TestJob {
    const createdAt = this.queue.find(id)!.created;
    const seen = { answered: false, statusSeen: false, unknown: false, outcomes: [], posted: new Map(), ends: [] };
    const job: TestJob = { id, taskId, createdAt, submittedBy, ...seen };
    this.jobs.set(id, job);
    return job;
  }

  /** Cancels a job at RunPod. */
  cancel(job: TestJob) {
    this.queue.cancel(this.queue.find(job.id)!);
    job.atEnd ??= this.snapshot(job);
    this.notifyChange();
  }

  statusOf = ({ id }: TestJob) => this.queue.find(id)?.status ?? 'deleted';

  /** How the queue shows the job now, to be compared with `atEnd`. */
  snapshot({ id }: TestJob): string {
    const { status, output, error, ended, workerId } = this.queue.find(id)!;
    return JSON.stringify({ status, output, error, ended, workerId });
  }

  /** Whether the worker runs the job, or may still run it: RunPod does not learn when a worker has let go of a cancelled one. */
  isHeldBy({ id }: TestJob, worker: WorkerProcess): boolean {
    const { status, workerId } = this.queue.find(id)!;
    return (status === 'IN_PROGRESS' || status === 'CANCELLED') && workerId === worker.id;
  }

  /** RunPod gives a job to one more worker. */
  giveAgain(worker: string, jobId: string): Response {
    this.#noteGiven(worker, jobId);
    const { id, input, webhook } = this.queue.find(jobId)!;
    return Response.json({ id, input, webhook });
  }

  wasGivenTo = (worker: string, jobId: string) => this.#given.get(worker)?.has(jobId) ?? false;

  /** How many times the bridge was asked for the task's pictures. */
  paymentsOf = (taskId: string) => this.#payments.filter((id) => id === taskId).length;

  /** The file of an object, or the folder of those below it. */
  objectPath = (key: string) => join(bucketFolder(this.dataDir), 'objects', key);

  /** Keys of all objects below a folder of the bucket, without the folder. */
  async listObjects(folder: string): Promise<string[]> {
    const root = this.objectPath(folder);
    const entries = await readdir(root, { recursive: true, withFileTypes: true }).catch(() => []); // nothing was written yet
    const files = entries.filter((entry) => entry.isFile());
    return files.map(({ parentPath, name }) => join(parentPath, name).slice(root.length + 1)).sort();
  }

  /** The objects in the task's folder, the job's own below `job/`. */
  async objects({ id, taskId }: TestJob): Promise<string[]> {
    return (await this.listObjects(taskFolder(taskId))).map((key) => key.replace(id, 'job')).sort();
  }

  /** What belongs to no running job: unfinished objects, temporary files. */
  async leftovers(): Promise<string[]> {
    const unfinished = await readdir(join(bucketFolder(this.dataDir), 'tmp'));
    const temporary = (await readdir(this.#temporary)).filter((name) => !name.startsWith('tsx-')); // the compiler's own
    return [...unfinished, ...temporary];
  }

  // Processes.

  startWorker(env: Record<string, string> = {}): WorkerProcess {
    const id = `worker-${this.workers.length + 1}`;
    const { url } = this.#server;
    const started = new Set<string>();
    const stages = new EventEmitter();
    const process = this.#start(id, {
      entry: 'handler/index.ts',
      ready: 'serving',
      env: {
        RUNPOD_LOG_LEVEL: 'DEBUG',
        ...{ MIDJOURNEY_BRIDGE: 'tnl', MIDJOURNEY_API_KEY: KEY, MIDJOURNEY_BASE_URL: `${url}/bridge/v2` },
        ...workerEnv(`${url}/v2/${WORKERS_ENDPOINT}`, KEY, id),
        RUNPOD_PING_INTERVAL: '500',
        ...env,
      },
      onLine({ message, stage, requestId }) {
        if (message !== 'stage started') return;
        started.add(`${requestId} ${stage}`);
        stages.emit('stage', requestId, stage);
      },
    });
    const worker: WorkerProcess = Object.assign(process, {
      onStage: (listener: (jobId: string, stage: Stage) => void) => void stages.on('stage', listener),
      hasStarted: (job: TestJob, stage: Stage) => started.has(`${job.id} ${stage}`),
    });
    this.workers.push(worker);
    return worker;
  }

  /**
   * Starts an API process. Callers use its `url`. RunPod's callbacks go through this harness, also while it is down.
   * @param name an API that is started again keeps its name, and so its port
   */
  async startApi(name: string, env: Record<string, string> = {}, preload: string[] = []): Promise<ApiProcess> {
    const url = this.apis.find(({ id }) => id === name)?.url ?? `http://127.0.0.1:${await freePort()}`;
    const process = this.#start(name, {
      entry: 'api/index.ts',
      ready: 'listening',
      preload,
      env: {
        PORT: new URL(url).port,
        CALLBACK_URL: `${this.#server.url}/${name}`,
        RUNPOD_API_KEY: KEY,
        RUNPOD_ENDPOINT_ID: name,
        RUNPOD_BASE_URL: `${this.#server.url}/v2`,
        ALLOW_PRIVATE_URLS: '1',
        ...env,
      },
    });
    const api = Object.assign(process, { url });
    this.apis.push(api);
    return api;
  }

  #start(id: string, { env, ...options }: Omit<Parameters<typeof startProcess>[1], 'onChange'>): TestProcess {
    const common = { TMPDIR: this.#temporary, DATA_DIR: this.dataDir, MODEL: 'camera' };
    return startProcess(id, { ...options, env: { ...common, ...env }, onChange: this.notifyChange });
  }

  /** Log tails of all running processes, and of the last ones that have ended. */
  logTails(): string {
    const alive = this.processes.filter(({ isAlive }) => isAlive());
    const ended = this.processes.filter(({ isAlive }) => !isAlive());
    return [...ended.slice(-4), ...alive].map(({ id, logTail }) => `${id}:\n${logTail()}`).join('\n');
  }

  /** RunPod learns of a worker's end when nothing that the worker sent is on its way any more. */
  async #noteWorkerExit(id: string, signal: string | null): Promise<void> {
    await this.waitFor(() => !this.#inFlight.get(id), `the last request of ${id}`);
    if (signal === 'SIGKILL') this.#ageBridgeClaims(id);
    this.queue.workerLost(id);
    this.notifyChange();
  }

  /**
   * As if the two minutes had passed during which the next worker waits for what a dead one has asked a bridge. Another worker may have the
   * same job, and save the bridge's answer between asynchronous steps: it would be overwritten.
   */
  #ageBridgeClaims(workerId: string): void {
    for (const { id, taskId } of this.jobs.values()) {
      const path = this.objectPath(imagineKey(taskId));
      if (!this.wasGivenTo(workerId, id) || !existsSync(path)) continue;
      const record = JSON.parse(readFileSync(path, 'utf8'));
      if (record.id !== undefined) continue;
      writeFileSync(`${path}.aged`, JSON.stringify({ ...record, asked_at: 0 }));
      renameSync(`${path}.aged`, path);
    }
  }

  // Requests.

  /** Middleware that lets faults happen to every known operation. */
  async #intercept(c: Context, next: () => Promise<void>): Promise<Response | undefined> {
    const request = await readOperation(c, (name) => this.apis.some(({ id }) => id === name));
    if (!request) return void (await next());
    const { operation, by } = request;
    this.#inFlight.set(by, (this.#inFlight.get(by) ?? 0) + 1);
    if (operation === 'outcome') this.#notePosted(request);
    try {
      let submitted: TestJob | undefined;
      const pass = async () => {
        submitted = await this.#observe(request, c, next);
      };
      const instead = await (this.fault(request) ?? passOn)(pass, c);
      if (submitted) submitted.answered = !instead && !c.req.raw.signal.aborted;
      const job = operation === 'status' && this.jobs.get(request.id);
      const { status } = instead ?? c.res;
      if (job && status === 404) job.unknown = true;
      else if (job && status === 200 && !instead) Object.assign(job, { statusSeen: true, unknown: false });
      return instead;
    } finally {
      this.#inFlight.set(by, this.#inFlight.get(by)! - 1);
      this.notifyChange();
    }
  }

  /** Passes a request on and notes what came of it. @returns the job that it has submitted */
  async #observe({ operation, by, id, body }: Intercepted, c: Context, next: () => Promise<void>) {
    const before = this.queue.find(id);
    const wasOwn = before?.status === 'IN_PROGRESS' && before.workerId === by;
    if (operation === 'imagine') this.#payments.push(String(body.ref));
    await (operation === 'stop' ? this.#observeStopPoll(by, c, next) : next());
    if (operation === 'outcome')
      this.jobs.get(id)?.outcomes.push({ worker: by, accepted: wasOwn && hasEnded(this.queue.find(id)!.status) });
    if (c.res.status !== 200) return undefined;
    if (operation === 'take')
      for (const { id } of [await c.res.clone().json()].flat() as { id: string }[]) this.#noteGiven(by, id);
    if (operation !== 'submit') return undefined;
    const { id: jobId } = await c.res.clone().json();
    const { task_id } = body.input as { task_id?: unknown };
    // A process that was just started again has sent nothing yet: the request is that of its predecessor.
    const sender = this.processes.findLast((process) => process.id === by && process.isReady());
    const job = this.#addJob(jobId, String(task_id), sender);
    this.onSubmit(job);
    return job;
  }

  async #observeStopPoll(worker: string, c: Context, next: () => Promise<void>): Promise<void> {
    const polls = this.#stopPolls.get(worker) ?? { count: 0, open: 0, answered: new Map() };
    this.#stopPolls.set(worker, polls);
    polls.count++;
    polls.open++;
    this.notifyChange();
    await next();
    polls.open--;
    if (c.res.status !== 200) return;
    for (const job of (await c.res.clone().json()).jobsToStop) polls.answered.set(job, polls.count);
  }

  #notePosted({ by, id, body }: Intercepted): void {
    const posted = this.jobs.get(id)?.posted;
    posted?.set(by, [...(posted.get(by) ?? []), JSON.stringify(body)]);
  }

  #noteGiven(worker: string, jobId: string): void {
    this.#given.set(worker, (this.#given.get(worker) ?? new Set()).add(jobId));
  }

  async #forwardToApi(c: Context): Promise<Response> {
    const { pathname, search } = new URL(c.req.url);
    const { method } = c.req;
    const headers = { 'content-type': c.req.header('content-type') ?? '' };
    const body = method === 'POST' ? await c.req.text() : null;
    const path = pathname.slice(pathname.indexOf('/', 1)) + search;
    const api = this.apis.find(({ id }) => id === c.req.param('api'))!;
    const answer = await fetch(api.url + path, { method, headers, body }).catch(() => {});
    return answer ? new Response(answer.body, { status: answer.status }) : hangUp(c);
  }
}
