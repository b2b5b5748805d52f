/** What befalls the service in a chaos trial: kills at chosen moments and at any, and whatever RunPod may answer. */
import { setTimeout as delay } from 'node:timers/promises';
import { MAX_JOBS } from '../../../api/tasks/transition.ts';
import { STAGES } from '../../../core/job.ts';
import { HOUR, SECOND } from '../../../core/time.ts';
import {
  type Asked,
  after,
  answer,
  type Fault,
  type Process,
  reset,
  resetAfter,
  type Scene,
  type WorkerProcess,
} from '../../e2e/fault-injection.ts';
import { type Counts, count, type Ledger, type Submission } from './ledger.ts';

/** When a process is killed. */
const API_MOMENTS = ['submitting', 'looking', 'settling', 'posting', 'announcing', 'called back', 'any'] as const;
const WORKER_MOMENTS = ['reporting', 'reported', 'any', ...STAGES] as const;
export type Moment = (typeof API_MOMENTS | typeof WORKER_MOMENTS)[number];

/** Moments that begin with a request. */
const AMID: Partial<Record<Asked['operation'], Moment>> = {
  submit: 'submitting',
  status: 'looking',
  callback: 'called back',
  outcome: 'reporting',
};

export interface StormOptions {
  scene: Scene;
  ledger: Ledger;
  /** the processes that run now: an API's, or a worker's */
  running: { api: () => Process[]; worker: () => Process[] };
  kills: number;
  /** random numbers for one kind of choice */
  stream: (name: string) => () => number;
  /** by the fast clock */
  now: () => number;
}

export const chooser =
  (random: () => number) =>
  <T>(choices: readonly T[]) =>
    choices[Math.floor(random() * choices.length)]!;

export function createStorm({ scene, ledger, running, kills, stream, now }: StormOptions) {
  const { killed, submissions, plans } = ledger;
  const random = stream('faults');
  const choose = chooser(random);
  const counts = { kills: {} as Counts, faults: {} as Counts };
  const everybody = () => [...running.api(), ...running.worker()];
  const isUp = (process: Process) => process.isReady() && process.isAlive() && !killed.has(process);

  // Kills.
  let armed: Moment | undefined;
  let struck = 0;

  /** Kills the process if its moment has come. @returns whether it was killed just now */
  function strike(moment: Moment, process: Process | undefined): boolean {
    if (armed !== moment || !process || !process.isAlive() || killed.has(process)) return false;
    armed = undefined;
    killed.add(process);
    process.kill('SIGKILL');
    struck++;
    count(counts.kills, `${process.id.split('-')[0]}: ${moment}`);
    scene.changed();
    return true;
  }

  /** One after the other. @param due whether it is time for the n-th */
  async function blows(due: (n: number) => boolean): Promise<void> {
    const random = stream('blows');
    for (let n = 0; n < kills; n++) {
      await scene.until(() => due(n), 'time for a blow', HOUR);
      const [moments, victims] = n % 2 ? [API_MOMENTS, running.api] : ([WORKER_MOMENTS, running.worker] as const);
      armed = chooser(random)<Moment>(moments);
      const patience = armed === 'any' ? 300 * random() : 3 * SECOND;
      const mayStart = random() < 0.3; // the next blow may meet a process that still starts
      await Promise.race([scene.until(() => armed === undefined, 'a blow', HOUR), delay(patience)]);
      if (armed !== undefined) {
        armed = 'any';
        await scene.until(() => victims().some((process) => strike('any', process)), 'somebody to kill', HOUR);
      }
      if (!mayStart) await scene.until(() => everybody().every(isUp), 'all to be up again', 60 * SECOND);
    }
  }

  // Faults.
  const late: Fault = (pass, c) => after(() => delay(50 + 200 * random()))(pass, c);
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
  /** One submission becomes two jobs, as where something on the way repeats it. */
  const double: Fault = async (pass, c) => {
    await pass();
    const { input, webhook } = (await c.req.json()) as { input: { task_id: string }; webhook: string };
    const { id: job } = scene.submitAny(input, input.task_id, webhook);
    const api = running.api().find(({ id }) => c.req.path.includes(`/${id}/`))!;
    submissions.set(job, { task: input.task_id, job, api, at: now(), answered: false, looked: false, unknown: false });
    return undefined;
  };
  const [busy, broken, down] = [answer(429), answer(500), answer(503)];
  const FAULTS: Partial<Record<Asked['operation'], { share: number; of: Record<string, Fault> }>> = {
    submit: {
      share: 0.3,
      of: { 429: busy, 500: broken, 503: down, reset, lost: resetAfter, nonsense, unreadable, late },
    },
    status: { share: 0.15, of: { 429: busy, 500: broken, reset, lost: resetAfter, nonsense, late, 404: answer(404) } },
    cancel: { share: 0.3, of: { 500: broken, reset, lost: resetAfter, nonsense, late } },
    callback: { share: 0.5, of: { lost: answer(200), unheard: broken, late, twice } },
    take: { share: 0.1, of: { 500: broken, reset, nonsense, late } },
    outcome: { share: 0.3, of: { 429: busy, 500: broken, 503: down, reset, lost: resetAfter, late } },
    progress: { share: 0.15, of: { 500: broken, reset, lost: resetAfter, late } },
    stop: { share: 0.1, of: { 500: broken, reset, late } },
    ping: { share: 0.2, of: { 500: broken, reset, late } },
  };

  function chooseFault({ operation, by, id }: Asked): Fault | undefined {
    const process = everybody().find((one) => one.id === by);
    /** The process dies, after the true end has heard of it. */
    const dying: Fault = (pass, c) =>
      resetAfter(async () => {
        await pass();
        await scene.until(() => !process!.isAlive(), `${by} to die`);
      }, c);
    const moment = AMID[operation];
    if (moment && strike(moment, process))
      return operation === 'callback' ? undefined : operation === 'submit' ? dying : reset;
    if (operation === 'outcome' && armed === 'reported')
      return async (pass, c) => {
        await pass();
        return strike('reported', process) ? dying(async () => {}, c) : undefined;
      };
    if (operation === 'status' || operation === 'cancel') {
      if (forgotten.has(id)) return answer(404);
      if (operation === 'status' && looksLeft.get(id) === 0 && forget(id)) return answer(404);
      looksLeft.set(id, (looksLeft.get(id) ?? Infinity) - 1);
    }
    if (operation === 'submit' && random() < 0.15) {
      count(counts.faults, 'made into two jobs');
      return double;
    }
    if (operation === 'take' && random() < 0.05) {
      const other = [...submissions.keys()].find(
        (job) => scene.queue.find(job)?.status === 'IN_PROGRESS' && !scene.wasGiven(by, job),
      );
      if (other !== undefined) count(counts.faults, 'given to two workers');
      if (other !== undefined) return async () => scene.giveTwice(by, other);
    }
    const { share, of } = FAULTS[operation] ?? { share: 0, of: {} };
    if (random() >= share) return undefined;
    const name = choose(Object.keys(of));
    count(counts.faults, `${operation}: ${name}`);
    return of[name];
  }

  const looksLeft = new Map<string, number>(); // of jobs that will be forgotten, how often RunPod knows them
  const forgotten = new Set<string>();
  /** RunPod forgets a job: no worker gets it, or who has it shall stop; or that one goes on. Never all jobs of a task. */
  function forget(job: string): boolean {
    const task = submissions.get(job)?.task;
    const queued = scene.queue.find(job);
    if (task === undefined || !queued) return false;
    if (ledger.ofTask(task).filter(({ job }) => forgotten.has(job)).length >= MAX_JOBS - 1) return false;
    forgotten.add(job);
    const goesOn = random() < 0.5;
    if (!goesOn) scene.queue.cancel(queued);
    count(counts.faults, goesOn ? 'forgotten, and goes on' : 'forgotten');
    return true;
  }

  let callbacks = 0;
  scene.control.fault = (asked) => {
    const fault = chooseFault(asked);
    if (asked.operation === 'callback') callbacks++;
    if (asked.operation === 'submit') return submitting(asked, fault);
    if (asked.operation === 'status') return looking(asked, fault);
    return fault;
  };

  /** Notes the job that is made, and whether the API hears of it. */
  function submitting({ by, body }: Asked, fault: Fault | undefined): Fault {
    return async (pass, c) => {
      let made: Submission | undefined;
      const passed = async () => {
        await pass();
        const { id: job } = await c.res.clone().json();
        const task = String((body.input as { task_id?: unknown }).task_id);
        const api = running.api().find(({ id }) => id === by)!;
        made = { task, job, api, at: now(), answered: false, looked: false, unknown: false };
        ledger.submitted(made, killed);
        if (random() < 0.15) looksLeft.set(job, Math.floor(6 * random()));
      };
      const instead = await fault?.(passed, c);
      if (!instead && !made) await passed();
      if (!instead && made) made.answered = !c.req.raw.signal.aborted;
      return instead;
    };
  }

  const isOver = ({ status }: { status?: string }) => status !== 'IN_QUEUE' && status !== 'IN_PROGRESS';
  /** Notes what the API is shown; shown an end that is to be announced, it may die, before or after it has stored it. */
  function looking({ id, by }: Asked, fault: Fault | undefined): Fault {
    return async (pass, c) => {
      let passed = false;
      const instead = await fault?.(async () => {
        passed = true;
        await pass();
      }, c);
      if (!instead && !passed) await pass();
      const { status } = instead ?? c.res;
      const submission = submissions.get(id);
      const isAnnounced = submission && plans.get(submission.task)?.hook;
      if (isAnnounced && !instead && status === 200 && isOver(await c.res.clone().json())) {
        const api = running.api().find(({ id }) => id === by);
        setTimeout(() => strike('settling', api), 60 * Math.random());
      }
      if (submission && status === 404) submission.unknown = true;
      if (submission && !instead && status === 200) Object.assign(submission, { looked: true, unknown: false });
      return instead;
    };
  }

  return {
    counts,
    callbacks: () => callbacks,
    struck: () => struck,
    strike,
    isUp,
    blows,
    /** A worker's stages are moments too. */
    watch: (worker: WorkerProcess) => worker.onStage((_, stage) => void strike(stage, worker)),
  };
}

export type Storm = ReturnType<typeof createStorm>;
