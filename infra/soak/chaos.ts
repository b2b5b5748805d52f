/**
 * `npm run soak -- chaos`: the whole service while its processes are killed at random and at the worst moments, and while RunPod refuses,
 * forgets, duplicates and delays. Callers post, repeat posts that broke off, poll, watch, cancel and take webhooks. It fails if a task
 * does not end, ends twice or as it should not, if a job is submitted twice without a reason, or if anything is left lying about.
 *
 * The API's clock, the store's and the queue's run `rate` times as fast, so that a minute's waiting takes seconds: by
 * `fast-clock.mjs` in the API's processes, by a function `now` in Postgres. The workers' clock is the real one, for their work is.
 */
import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { crc32 } from 'node:zlib';
import { Hono } from 'hono';
import type { PresentedTask } from '../../api/tasks/present.ts';
import { LOST_AFTER, MAX_JOBS } from '../../api/tasks/transition.ts';
import { listen } from '../../api/testing.ts';
import { bucketFolder } from '../../handler/environment.ts';
import { STAGES } from '../../handler/job.ts';
import {
  type ApiProcess,
  type Asked,
  after,
  answer,
  type Fault,
  openScene,
  type Process,
  reset,
  resetAfter,
  type WorkerProcess,
} from '../e2e/faulty.ts';
import { realClock } from '../local/clock.ts';
import { hasPostgres, type LocalPostgres, startPostgres } from '../local/postgres.ts';
import { numbers } from './numbers.ts';

const SECOND = 1000;
const HOUR = 3600 * SECOND;

export interface ChaosOptions {
  seed: number;
  tasks: number;
  kills: number;
  /** keeps the tasks, for two API processes; without it one API process keeps them in a libSQL file */
  postgres?: LocalPostgres | undefined;
  /** share of the tasks that are cancelled, 0–1 */
  cancels?: number;
  /** how many times as fast the clocks run */
  rate?: number;
  /** whether a post repeated with the same Idempotency-Key is the same task */
  isIdempotent?: boolean;
  /** told now and then how far it is */
  onProgress?: (text: string) => void;
}

type Counts = Record<string, number>;

export interface ChaosReport {
  /** accepted, and stored though the caller never heard of it */
  tasks: { accepted: number; unheard: number };
  /** how they ended */
  ends: Counts;
  kills: Counts;
  faults: Counts;
  /** tasks by the number of their jobs */
  jobs: Counts;
  /** submissions of a task after its first, by what led to them */
  further: Counts;
  callbacks: number;
  /** deliveries, heard and refused */
  webhooks: { heard: number; refused: number };
  /** what killed processes have left that nobody could know of */
  left: Counts;
  /** milliseconds */
  time: number;
  /** what should not have happened */
  found: string[];
  /** the last lines of the processes' logs, if anything was found */
  logs?: string;
}

/** When a process is killed. */
const API_MOMENTS = ['submitting', 'looking', 'posting', 'announcing', 'called back', 'any'] as const;
const WORKER_MOMENTS = ['reporting', 'reported', 'any', ...STAGES] as const;
type Moment = (typeof API_MOMENTS | typeof WORKER_MOMENTS)[number];

/** A job that RunPod was given. */
interface Submission {
  task: string;
  job: string;
  api: Process;
  /** by the fast clock */
  at: number;
  /** whether its answer got through */
  answered: boolean;
  /** whether the API has been shown it since */
  looked: boolean;
  /** whether RunPod has said that it does not know it */
  unknown: boolean;
}

interface Plan {
  kind: 'prompt' | 'banned' | 'picture';
  columns: number;
  hook: boolean;
  events: boolean;
  cancel: 'at once' | 'while it runs' | undefined;
}

const isEnded = ({ status }: Pick<PresentedTask, 'status'>) => status !== 'queued' && status !== 'running';
const keyOf = (link: string) => new URL(link).pathname.split('/files/')[1]!;
const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

/** What must never change once a task has ended. */
function resultOf({ status, error, videos, grid, finished_at }: PresentedTask): string {
  const files = [...(videos ?? []), ...(grid ? [grid] : [])].map(({ link, sha256 }) => `${keyOf(link)} ${sha256}`);
  return [status, error?.code ?? '', finished_at, ...files].join(' ').trim();
}

export async function chaos(options: ChaosOptions): Promise<ChaosReport> {
  const { seed, tasks, kills, postgres, cancels = 0.15, rate = 15, isIdempotent = false, onProgress } = options;
  /** Each kind of choice has numbers of its own, so that one more of the one kind leaves the others as they are. */
  const stream = (name: string) => numbers(Math.imul(seed, 0x9e3779b1) ^ crc32(name));
  const chooser =
    (random: () => number) =>
    <T>(choices: readonly T[]) =>
      choices[Math.floor(random() * choices.length)]!;

  const began = Date.now();
  const now = () => began + (Date.now() - began) * rate;
  const { sleep } = realClock();
  const clock = { now, sleep: (ms: number, signal?: AbortSignal) => sleep(ms / rate, signal) };
  const folder = await mkdtemp(join(tmpdir(), 'chaos-'));
  const scene = await openScene(folder, { clock, hold: 5 * SECOND * rate, silentAfter: 60 * SECOND * rate });
  const { queue } = scene;

  const report: ChaosReport = {
    tasks: { accepted: 0, unheard: 0 },
    ...{ ends: {}, kills: {}, faults: {}, jobs: {}, further: {}, left: {}, found: [] },
    ...{ callbacks: 0, webhooks: { heard: 0, refused: 0 }, time: 0 },
  };
  const count = (counts: Counts, name: string | number, by = 1) => {
    counts[name] = (counts[name] ?? 0) + by;
  };
  const find = (what: string) => void (report.found.includes(what) || report.found.push(what));

  // What is known of each task, and of each job.
  const plans = new Map<string, Plan>();
  const results = new Map<string, { is: string; shown: PresentedTask; by: string }>();
  const deliveries = new Map<string, { ids: Set<string>; types: Set<string>; heard: number }>();
  const cancelled = new Set<string>();
  const submissions = new Map<string, Submission>();
  const ofTask = (id: string) => [...submissions.values()].filter(({ task }) => task === id);
  const killed = new Set<Process>();

  /** A task as somebody was shown it. */
  function see(task: PresentedTask, by: string) {
    const known = results.get(task.id);
    if (known && known.is !== resultOf(task)) find(`${task.id}: ${known.by} saw ${known.is}, ${by} ${resultOf(task)}`);
    if (!known && isEnded(task)) results.set(task.id, { is: resultOf(task), shown: task, by });
    scene.changed();
  }

  // Processes: each is started again when it dies.
  const running = new Map<string, ApiProcess | WorkerProcess>(); // by lane
  let over = false;
  const preload = [`${new URL('fast-clock.mjs', import.meta.url)}?rate=${rate}&since=${began}`];
  const database = postgres && (await fastDatabase(postgres, rate, began));
  const names = postgres ? ['api-1', 'api-2'] : ['api-1'];
  const startApi = (name: string) =>
    scene.startApi(
      name,
      { TASK_DEADLINE_SECONDS: String(7 * 24 * 3600), ...(database && { DATABASE_URL: database }) },
      preload,
    );
  async function lane(name: string) {
    while (!over) {
      const current = names.includes(name)
        ? await startApi(name)
        : strikable(scene.startWorker({ WORKER_CONCURRENCY: '2' }));
      running.set(name, current);
      const end = await current.ended(HOUR);
      const wanted = killed.has(current) ? 'SIGKILL' : over ? '0' : 'none';
      if (String(end.signal ?? end.code) !== wanted)
        find(`${current.id} ended with ${end.signal ?? end.code}\n${current.tail()}`);
    }
  }
  function strikable(worker: WorkerProcess) {
    worker.onStage((_, stage) => void (worker === running.get(laneOf(worker)) && strike(stage, worker)));
    return worker;
  }
  const laneOf = (process: Process) => [...running].find(([, { id }]) => id === process.id)?.[0] ?? '';
  const isUp = (process: Process | undefined) => process?.isReady() && process.isAlive() && !killed.has(process);
  const anApi = (choose = chooser(Math.random)) =>
    scene.until(
      () => {
        const up = names.flatMap((name) => running.get(name) ?? []).filter(isUp) as ApiProcess[];
        return up.length > 0 && choose(up);
      },
      'an API process',
      2 * 60 * SECOND,
    );

  // Blows.
  let armed: Moment | undefined;
  let struck = 0;
  /** Whether the process has just been killed, because its moment had come. */
  function strike(moment: Moment, process: Process | undefined): boolean {
    if (armed !== moment || !process || !process.isAlive() || killed.has(process)) return false;
    armed = undefined;
    killed.add(process);
    process.kill('SIGKILL');
    struck++;
    count(report.kills, `${process.id.startsWith('api') ? 'API' : 'worker'}: ${moment}`);
    scene.changed();
    return true;
  }
  const dead = (process: Process) => scene.until(() => !process.isAlive(), `${process.id} to die`);

  async function blows() {
    const random = stream('blows');
    const choose = chooser(random);
    for (let i = 0; i < kills; i++) {
      await scene.until(() => posted >= (tasks * i) / kills, 'tasks to be posted', HOUR);
      const moment = choose(i % 2 ? API_MOMENTS : WORKER_MOMENTS);
      const victims = i % 2 ? names : ['worker 1', 'worker 2'];
      const patience = random() < 0.3 ? 0 : 60 * SECOND; // sometimes the next blow meets one that still starts
      armed = moment;
      const wait = moment === 'any' ? 300 * random() : 3 * SECOND;
      await Promise.race([scene.until(() => armed === undefined, 'a blow', HOUR), delay(wait)]);
      if (armed !== undefined) {
        armed = 'any';
        await scene.until(() => victims.some((name) => strike('any', running.get(name))), 'somebody to kill', HOUR);
      }
      if (patience > 0) await scene.until(() => [...running.values()].every(isUp), 'all to be up again', patience);
      onProgress?.(`${struck} kills, ${posted} posts, ${results.size} tasks ended`);
    }
  }

  // Faults.
  const faults = stream('faults');
  const late: Fault = (pass, c) => after(() => delay(50 + 200 * faults()))(pass, c);
  const nonsense = answer(200, '<html>not now</html>');
  const unreadable: Fault = async (pass) => {
    await pass();
    return new Response('<html>what was it?</html>');
  };
  const twice: Fault = async (pass, c) => {
    const again = fetch(c.req.url, { method: 'POST', body: await c.req.text() }).catch(() => undefined); // it may meet a dead API
    await pass();
    await again;
    return undefined;
  };
  const FAULTS: Partial<Record<Asked['operation'], { share: number; of: Record<string, Fault> }>> = {
    submit: {
      share: 0.3,
      of: {
        429: answer(429),
        500: answer(500),
        503: answer(503),
        reset,
        'answer lost': resetAfter,
        nonsense,
        unreadable,
        late,
      },
    },
    status: {
      share: 0.15,
      of: { 429: answer(429), 500: answer(500), reset, resetAfter, nonsense, late, 404: answer(404) },
    },
    cancel: { share: 0.3, of: { 500: answer(500), reset, 'answer lost': resetAfter, nonsense, late } },
    callback: { share: 0.5, of: { lost: answer(200), unheard: answer(500), late, twice } },
    take: { share: 0.1, of: { 500: answer(500), reset, late, nonsense } },
    outcome: {
      share: 0.3,
      of: { 500: answer(500), 503: answer(503), 429: answer(429), reset, 'answer lost': resetAfter, late },
    },
    progress: { share: 0.15, of: { 500: answer(500), reset, 'answer lost': resetAfter, late } },
    stop: { share: 0.1, of: { 500: answer(500), reset, late } },
    ping: { share: 0.2, of: { 500: answer(500), reset, late } },
  };
  const forgotten = new Set<string>();

  function chooseFault(asked: Asked): Fault | undefined {
    const { operation, by, id } = asked;
    const process = [...running.values()].find((one) => one.id === by);
    const blow = ({ submit: 'submitting', status: 'looking', callback: 'called back', outcome: 'reporting' } as const)[
      operation as string
    ];
    if (blow && strike(blow, process)) {
      if (operation === 'callback') return undefined;
      if (operation !== 'submit') return reset;
      return (pass, c) =>
        resetAfter(async () => {
          await pass(); // the job is made
          await dead(process!);
        }, c);
    }
    if (operation === 'outcome' && armed === 'reported')
      return (pass, c) =>
        resetAfter(async () => {
          await pass();
          if (strike('reported', process)) await dead(process!);
        }, c);
    if (forgotten.has(id) && (operation === 'status' || operation === 'cancel')) return answer(404);
    if (operation === 'status' && faults() < 0.03 && forget(id)) return answer(404);
    if (operation === 'take' && faults() < 0.05) {
      const job = [...submissions.values()].find(
        ({ job }) => queue.find(job)?.status === 'IN_PROGRESS' && !scene.wasGiven(by, job),
      );
      if (job) {
        count(report.faults, 'take: given twice');
        return async () => scene.giveTwice(by, job.job);
      }
    }
    const { share, of } = FAULTS[operation] ?? { share: 0, of: {} };
    if (faults() >= share) return undefined;
    const name = chooser(faults)(Object.keys(of));
    count(report.faults, `${operation}: ${name}`);
    return of[name];
  }

  /** RunPod forgets a job: the worker never gets it or is told to stop, or it goes on with it all the same. */
  function forget(job: string): boolean {
    const submission = submissions.get(job);
    const queued = queue.find(job);
    if (
      !submission ||
      !queued ||
      ofTask(submission.task).filter(({ job }) => forgotten.has(job)).length >= MAX_JOBS - 1
    )
      return false;
    forgotten.add(job);
    const goesOn = faults() < 0.5;
    if (!goesOn) queue.cancel(queued);
    count(report.faults, goesOn ? 'forgotten, and goes on' : 'forgotten');
    return true;
  }

  /** Notes what comes of submissions and looks. */
  scene.control.fault = (asked) => {
    const fault = chooseFault(asked);
    if (asked.operation === 'callback') report.callbacks++;
    if (asked.operation !== 'submit' && asked.operation !== 'status') return fault;
    return async (pass, c) => {
      let status = 0;
      const passed = async () => {
        await pass();
        status = c.res.status;
        if (asked.operation !== 'submit' || status !== 200) return;
        const { id: job } = await c.res.clone().json();
        const task = String((asked.body.input as { task_id?: unknown }).task_id);
        const api = running.get(asked.by)!;
        const submission = { task, job, api, at: now(), answered: false, looked: false, unknown: false };
        judgeSubmission(submission);
        submissions.set(job, submission);
      };
      const instead = await fault?.(passed, c);
      if (!instead && status === 0) await passed();
      const gotThrough = !c.req.raw.signal.aborted;
      if (asked.operation === 'submit') {
        const submission = [...submissions.values()].at(-1);
        if (!instead && submission && gotThrough) {
          const { id } = await c.res.clone().json();
          submissions.get(id)!.answered = true;
        }
      } else {
        const submission = submissions.get(asked.id);
        if (submission && !instead && status === 200) submission.looked = true;
        if (submission && (instead?.status ?? status) === 404) submission.unknown = true;
      }
      return instead;
    };
  };

  /** Before a job there may be others only for a reason. */
  function judgeSubmission({ task, at }: Submission) {
    for (const earlier of ofTask(task)) {
      const { job, api, answered, looked, unknown } = earlier;
      const reason =
        unknown && at - earlier.at > LOST_AFTER - 2 * SECOND
          ? 'forgotten'
          : looked
            ? undefined
            : killed.has(api)
              ? 'killed amid a submission'
              : !answered && 'answer lost';
      if (reason) count(report.further, reason);
      else find(`${task} was submitted again beside ${job}, of which ${api.id} knew`);
    }
  }

  // Webhooks.
  const hooks = stream('hooks');
  const receiver = await listen(
    new Hono().post('/', async (c) => {
      const { type, data } = (await c.req.json()) as { type: string; data: PresentedTask };
      const known = deliveries.get(data.id) ?? { ids: new Set(), types: new Set(), heard: 0 };
      deliveries.set(data.id, known);
      const isFirst = known.ids.size === 0;
      known.ids.add(c.req.header('webhook-id') ?? 'none');
      known.types.add(type);
      see(data, 'a webhook');
      const api = names.flatMap((name) => running.get(name) ?? []).find(isUp);
      const isHeard = !(strike('announcing', api) || (isFirst && hooks() < 0.3));
      report.webhooks[isHeard ? 'heard' : 'refused']++;
      if (isHeard) known.heard++;
      scene.changed();
      return c.body(null, isHeard ? 204 : 500);
    }),
  );

  // Callers.
  const picture = await readFile(new URL('../../assets/coffee.png', import.meta.url));
  let posted = 0;
  let broken = 0; // posts

  async function caller(i: number) {
    const random = stream(`caller ${i}`);
    const choose = chooser(random);
    const plan: Plan = {
      kind: choose(['prompt', 'banned', 'picture', 'picture', 'picture', 'picture'] as const),
      columns: random() < 0.3 ? 2 : 1,
      hook: random() < 0.5,
      events: random() < 0.4,
      cancel: random() < cancels ? choose(['at once', 'while it runs'] as const) : undefined,
    };
    const id = await post(plan, i, choose);
    plans.set(id, plan);
    report.tasks.accepted++;
    if (plan.cancel === 'at once') await cancel(id, choose);
    await (plan.events ? events : poll)(id, plan, choose, random);
  }

  /** Posts until it hears that it is accepted. */
  async function post({ kind, columns, hook }: Plan, i: number, choose: Choose): Promise<string> {
    const fields: Record<string, string> = {
      H: '64',
      W: '64',
      T: '2',
      steps: '1',
      seed: String(i),
      num_cols: String(columns),
    };
    if (kind === 'prompt') fields.prompt = `number ${i}`;
    if (kind === 'banned') fields.prompt = 'something BANNED_PROMPT';
    if (hook) fields.webhook_url = `${receiver.url}/`;
    for (;;) {
      const api = await anApi(choose);
      const body = new FormData();
      for (const [name, value] of Object.entries(fields)) body.append(name, value);
      if (kind === 'picture') body.append('image', new Blob([new Uint8Array(picture)]), 'image.png');
      const headers = { 'idempotency-key': `chaos-${seed}-${i}` };
      const asking = fetch(`${api.url}/img2vid`, { method: 'POST', headers, body }).then(
        async (response) => ({ status: response.status, task: (await response.json()) as PresentedTask }),
        () => undefined, // it died
      );
      if (armed === 'posting') setTimeout(() => strike('posting', api), 40 * Math.random());
      const answer = await asking.catch(() => undefined);
      if (answer?.status === 202) {
        posted++;
        see(answer.task, 'who posted it');
        return answer.task.id;
      }
      if (answer) throw new Error(`a post was answered ${answer.status}: ${JSON.stringify(answer.task)}`);
      broken++;
    }
  }
  type Choose = ReturnType<typeof chooser>;

  /** An answer about a task, or undefined where the connection broke. */
  async function ask(path: string, choose: Choose, init?: RequestInit) {
    const api = await anApi(choose);
    try {
      const response = await fetch(api.url + path, init);
      return { status: response.status, task: (await response.json()) as PresentedTask };
    } catch {
      return undefined; // it died
    }
  }

  async function cancel(id: string, choose: Choose) {
    cancelled.add(id);
    for (;;) {
      const answer = await ask(`/cancel?id=${id}`, choose, { method: 'POST' });
      if (answer?.status === 202) return see(answer.task, 'who cancelled it');
      if (answer?.status === 409) return;
      if (answer) throw new Error(`a cancel was answered ${answer.status}`);
    }
  }

  async function poll(id: string, plan: Plan, choose: Choose, random: () => number) {
    for (let progress = 0, task: PresentedTask | undefined; !task || !isEnded(task); ) {
      await delay(50 + 100 * random()); // as callers do
      const answer = await ask(`/status?id=${id}`, choose);
      if (answer && answer.status !== 200) find(`${id}: its status was answered ${answer.status}`);
      if (answer?.status !== 200) continue;
      task = answer.task;
      see(task, 'who polls');
      if (task.progress < progress) find(`${id}: progress fell from ${progress} to ${task.progress}`);
      progress = task.progress;
      if (plan.cancel === 'while it runs' && task.status === 'running' && !cancelled.has(id)) await cancel(id, choose);
    }
  }

  async function events(id: string, plan: Plan, choose: Choose) {
    for (let last = ''; ; ) {
      const api = await anApi(choose);
      try {
        const headers = { accept: 'text/event-stream', ...(last && { 'last-event-id': last }) };
        const response = await fetch(`${api.url}/status?id=${id}`, { headers });
        let text = '';
        for await (const part of response.body!.pipeThrough(new TextDecoderStream())) {
          text += part;
          const whole = text.split('\n\n');
          text = whole.pop()!;
          for (const event of whole) {
            const data = /^data: (.*)$/m.exec(event)?.[1];
            if (!data) continue; // a sign of life
            last = /^id: (.*)$/m.exec(event)![1]!;
            const task = JSON.parse(data) as PresentedTask;
            see(task, 'who watches');
            if (isEnded(task)) return;
            if (plan.cancel === 'while it runs' && task.status === 'running' && !cancelled.has(id))
              await cancel(id, choose);
          }
        }
      } catch {
        // it died: somebody else goes on
      }
    }
  }

  /** So many at once, and not so fast that no task is left for the blows. */
  async function callers() {
    let next = 0;
    const atOnce = Math.min(tasks, 10);
    await Promise.all(
      Array.from({ length: atOnce }, async () => {
        while (next < tasks) {
          const i = next++;
          await scene.until(() => struck >= Math.floor((kills * (i - atOnce)) / tasks), 'blows', HOUR);
          await caller(i);
        }
      }),
    );
  }

  /** When all is quiet: everybody is asked again, and everything is looked at. */
  async function judge() {
    const all = new Map<string, PresentedTask>();
    for (const name of names) {
      const { url } = running.get(name) as ApiProcess;
      const list = (await (await fetch(`${url}/status`)).json()) as PresentedTask[];
      for (const task of list) {
        see(task, `the list of ${name}`);
        all.set(task.id, task);
        if (!isEnded(task)) find(`${task.id} is ${task.status} for ever`);
      }
      for (const id of plans.keys()) see((await (await fetch(`${url}/status?id=${id}`)).json()) as PresentedTask, name);
    }
    for (const task of all.values()) {
      const { id, status, error, videos = [], grid } = task;
      const plan = plans.get(id);
      count(report.ends, `${status} ${error?.code ?? ''}`.trim());
      count(report.jobs, ofTask(id).length);
      if (!plan) report.tasks.unheard++;
      else judgeEnd(task, plan);
      for (const { link, sha256: told, bytes } of [...videos, ...(grid ? [grid] : [])]) {
        const body = new Uint8Array(await (await fetch(link)).arrayBuffer());
        if (sha256(body) !== told || body.length !== bytes) find(`${id}: ${keyOf(link)} is not what was told`);
      }
      const delivered = deliveries.get(id);
      if (task.input.webhook_url === undefined ? delivered : !delivered)
        find(`${id}: webhooks: ${delivered?.types.size}`);
      if (delivered && (delivered.ids.size !== 1 || [...delivered.types].join() !== `task.${status}`))
        find(`${id}: webhooks ${[...delivered.ids]}, ${[...delivered.types]}`);
    }
    for (const id of plans.keys()) if (!all.has(id)) find(`${id} was accepted and is not in the list`);
    if (report.tasks.unheard > (isIdempotent ? 0 : broken)) find(`${report.tasks.unheard} tasks that nobody posted`);
    return all;
  }

  const struckOver = (id: string) =>
    scene.workers.filter(
      (worker) => killed.has(worker) && ofTask(id).some(({ job }) => scene.wasGiven(worker.id, job)),
    );

  function judgeEnd({ id, status, error }: PresentedTask, { kind }: Plan) {
    const how = `${status} ${error?.code ?? ''}`.trim();
    const lost = ofTask(id).filter(({ unknown }) => unknown).length;
    const isRight =
      {
        succeeded: kind !== 'banned',
        'failed banned_prompt': kind === 'banned',
        canceled: cancelled.has(id),
        'failed lost': lost >= MAX_JOBS || (kind !== 'picture' && struckOver(id).length > 0),
        'failed out_of_memory': struckOver(id).length >= 3,
      }[how] ?? false;
    if (!isRight) find(`${id}, a ${kind}: ${how}, ${JSON.stringify(error)}`);
    const paid = scene.imagines({ taskId: id } as never);
    if (paid > (kind === 'picture' ? 0 : 1)) find(`${id} was paid for ${paid} times`);
  }

  /** What lies in the bucket, when no process lives. */
  async function judgeFiles(all: Map<string, PresentedTask>) {
    const root = join(bucketFolder(scene.dataDir), 'objects', 'tasks');
    const files = new Map<string, string[]>([...all.keys()].map((id) => [id, []]));
    for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue;
      const [id = '', ...path] = join(entry.parentPath, entry.name)
        .slice(root.length + 1)
        .split('/');
      files.set(id, [...(files.get(id) ?? []), path.join('/')]);
    }
    let orphans = 0;
    for (const [id, names] of files) {
      const task = all.get(id);
      if (!task) {
        if (names.join() === 'upload') orphans++;
        else find(`${id} is no task and has ${names}`);
        continue;
      }
      const result = names.includes('result.json')
        ? (JSON.parse(await readFile(join(root, id, 'result.json'), 'utf8')) as Result)
        : undefined;
      const won = [...(result?.output?.videos ?? []), ...(result?.output?.grid ? [result.output.grid] : [])].map(
        ({ key }) => key.slice(`tasks/${id}/`.length),
      );
      const told = [...(task.videos ?? []), ...(task.grid ? [task.grid] : [])].map(({ link }) =>
        keyOf(link).slice(`tasks/${id}/`.length),
      );
      const needed = [...won, ...told, ...(task.status === 'succeeded' ? ['result.json', 'still.png'] : [])];
      for (const name of needed) if (!names.includes(name)) find(`${id}, ${task.status}, lacks ${name}`);
      for (const name of names) {
        if (PICTURES.test(name) || name === 'result.json' || won.includes(name)) continue;
        const [job = ''] = name.split('/');
        const isOfDead = struckOver(id).some((worker) => scene.wasGiven(worker.id, job));
        const kind = name.startsWith('attempt-')
          ? 'word of a dead worker'
          : isOfDead
            ? 'file of a dead worker'
            : undefined;
        if (kind) count(report.left, `${kind}, ${task.status}`);
        else find(`${id}, ${task.status}: ${name} is left`);
      }
    }
    if (orphans > broken) find(`${orphans} uploads without a task`);
    if (orphans > 0) count(report.left, 'upload without a task', orphans);
    for (const name of await scene.litter()) find(`${name} is left`);
    for (const process of scene.processes) if (!(await ends(process))) find(`a process of ${process.id} lives on`);
  }

  const limit = 60 * SECOND + 3 * SECOND * tasks + 10 * SECOND * kills;
  const tooLate = new AbortController();
  const timeUp = delay(limit, undefined, { signal: tooLate.signal }).then(() => {
    throw new Error(
      `not over after ${limit / SECOND} s: ${[...plans.keys()].filter((id) => !results.has(id)).length} tasks are open`,
    );
  });
  const lanes = ['worker 1', 'worker 2', ...names].map(lane);
  const storm = (async () => {
    await Promise.all([callers(), blows()]);
    const hooked = () => [...plans].filter(([, { hook }]) => hook).map(([id]) => id);
    await scene.until(() => hooked().every((id) => deliveries.get(id)?.heard), 'webhooks', limit);
    await scene.until(() => [...running.values()].every(isUp), 'all to be up again', 60 * SECOND);
    await scene.until(
      () => {
        const { inQueue, inProgress } = queue.health().jobs;
        return inQueue + inProgress === 0;
      },
      'the last job',
      60 * SECOND,
    );
    const all = await judge();
    over = true;
    for (const process of running.values()) process.kill('SIGTERM');
    await Promise.all(lanes);
    await judgeFiles(all);
  })();
  try {
    await Promise.race([storm, timeUp, Promise.all(lanes).then(() => storm)]);
  } catch (error) {
    find(String((error as Error).message).split('\n')[0]!);
    for (const id of plans.keys()) if (!results.has(id)) find(`${id} has not ended`);
  } finally {
    over = true;
    tooLate.abort();
    report.time = Date.now() - began;
    if (report.found.length > 0) report.logs = scene.lastWords();
    await Promise.allSettled([timeUp, scene.close()]);
    await receiver.close();
    await rm(folder, { recursive: true, force: true });
  }
  return report;
}

/** Whether the whole group of a process that has ended is gone, if not at once (tsx's compiler ends a moment later). */
async function ends(process: Process): Promise<boolean> {
  for (let tries = 100; process.hasRemains(); tries--) {
    if (tries === 0) return false;
    await delay(50);
  }
  return true;
}

type Result = { output?: { videos: { key: string }[]; grid?: { key: string } } };
const PICTURES = /^(upload|still\.png|imagine\.json|imagine-[1-4]\.png)$/;

/** A database whose clock runs fast: our `now` comes before Postgres's own. */
async function fastDatabase(postgres: LocalPostgres, rate: number, since: number): Promise<string> {
  const { name, url } = await postgres.database();
  const fast = `${since / SECOND} + (extract(epoch from pg_catalog.now()) - ${since / SECOND}) * ${rate}`;
  await postgres.query(
    name,
    `create function now() returns timestamptz language sql stable return to_timestamp(${fast})`,
  );
  await postgres.query(name, `alter database ${name} set search_path = public, pg_catalog`);
  return url;
}

/** @returns whether nothing was found */
export async function soak(args: string[]): Promise<boolean> {
  const { values } = parseArgs({
    args,
    options: {
      tasks: { type: 'string', default: '500' },
      kills: { type: 'string', default: '100' },
      seed: { type: 'string', default: String(Date.now() % 1e6) },
      store: { type: 'string' },
    },
  });
  const [tasks, kills, seed] = [Number(values.tasks), Number(values.kills), Number(values.seed)];
  if (!(tasks > 0) || !(kills >= 0) || ![tasks, kills, seed].every(Number.isInteger))
    throw new Error('--tasks from 1, --kills from 0, --seed: whole numbers');
  if (values.store !== undefined && !['libsql', 'postgres'].includes(values.store))
    throw new Error('--store libsql or postgres; both, if it is not said');
  const stores = values.store ? [values.store] : ['libsql', 'postgres'];
  if (stores.includes('postgres') && !hasPostgres)
    throw new Error('no PostgreSQL: --store libsql tries the other alone');
  let isClean = true;
  for (const store of stores) {
    console.log(`${store}: ${tasks} tasks, ${kills} kills, seed ${seed}`);
    const postgres = store === 'postgres' ? await startPostgres() : undefined;
    let told = Date.now();
    const onProgress = (text: string) => {
      if (Date.now() - told < 15 * SECOND) return;
      told = Date.now();
      console.log(text);
    };
    const { logs, found, ...report } = await chaos({ seed, tasks, kills, postgres, onProgress }).finally(() =>
      postgres?.stop(),
    );
    console.dir({ ...report, time: `${Math.round(report.time / SECOND)} s` }, { depth: null });
    for (const what of found) console.log(`FOUND ${what}`);
    if (logs) console.log(`seed ${seed}\n${logs}`);
    isClean &&= found.length === 0;
  }
  return isClean;
}
