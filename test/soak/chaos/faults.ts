/** Faults of a chaos trial: anything that RunPod may answer, and kills in the middle of requests. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Context } from 'hono';
import { MAX_JOBS } from '../../../api/tasks/job-transitions.ts';
import type { TestProcess } from '../../e2e/child-process.ts';
import { after, answer, type Fault, type Intercepted, passOn, reset, resetAfter } from '../../e2e/fault-injection.ts';
import { hasEnded, type TestJob } from '../../e2e/harness.ts';
import { chooser } from '../prng.ts';
import type { Moment, Processes } from './processes.ts';
import { type Counts, count, type Trial } from './trial.ts';

/** Moments that begin with a request. */
const MOMENTS: Partial<Record<Intercepted['operation'], Moment>> = {
  submit: 'submitting',
  status: 'getting a status',
  callback: 'called back',
  outcome: 'reporting',
};

const nonsense = answer(200, '<html>not now</html>');
/** The request is done, and its answer is no JSON. */
const unreadable: Fault = async (pass) => {
  await pass();
  return new Response('<html>what was it?</html>');
};
/** The request arrives twice. */
const twice: Fault = async (pass, c) => {
  const again = fetch(c.req.url, { method: 'POST', body: await c.req.text() }).catch(() => undefined); // the API may be dead
  await pass();
  return void (await again);
};
const [busy, broken, down] = [answer(429), answer(500), answer(503)];

/** Injects faults into the trial's harness. */
export class Faults {
  readonly counts: Counts = {};
  callbacks = 0;
  /** jobs that RunPod has forgotten */
  readonly #forgotten = new Set<string>();
  /** how many more times RunPod knows a job that it will forget */
  readonly #answersLeft = new Map<string, number>();
  readonly #faults: Partial<Record<Intercepted['operation'], { share: number; of: Record<string, Fault> }>>;

  constructor(
    private readonly trial: Trial,
    private readonly processes: Processes,
    private readonly random = trial.stream('faults'),
  ) {
    const late: Fault = (pass, c) => after(() => delay(50 + 200 * random()))(pass, c);
    const lost = resetAfter;
    this.#faults = {
      submit: { share: 0.3, of: { 429: busy, 500: broken, 503: down, reset, lost, nonsense, unreadable, late } },
      status: { share: 0.15, of: { 429: busy, 500: broken, reset, lost, nonsense, late, 404: answer(404) } },
      cancel: { share: 0.3, of: { 500: broken, reset, lost, nonsense, late } },
      callback: { share: 0.5, of: { lost: answer(200), refused: broken, late, twice } },
      take: { share: 0.1, of: { 500: broken, reset, nonsense, late } },
      outcome: { share: 0.3, of: { 429: busy, 500: broken, 503: down, reset, lost, late } },
      progress: { share: 0.15, of: { 500: broken, reset, lost, late } },
      stop: { share: 0.1, of: { 500: broken, reset, late } },
      ping: { share: 0.2, of: { 500: broken, reset, late } },
    };
    const { harness } = trial;
    harness.onSubmit = (job) => {
      trial.checkSubmission(job);
      if (random() < 0.15) this.#answersLeft.set(job.id, Math.floor(6 * random()));
    };
    harness.fault = (request) => {
      const fault = this.#choose(request);
      if (request.operation === 'callback') this.callbacks++;
      return request.operation === 'status' ? this.#killSettling(request, fault) : fault;
    };
  }

  #choose({ operation, by, id }: Intercepted): Fault | undefined {
    const { processes, random } = this;
    const { harness } = this.trial;
    const process = harness.findProcess(by);
    const moment = MOMENTS[operation];
    if (moment && processes.killAt(moment, process)) {
      if (operation === 'callback') return undefined;
      return operation === 'submit' ? this.#passThenDie(process!) : reset;
    }
    if (operation === 'outcome' && processes.isPlanned('reported'))
      return async (pass, c) => {
        await pass();
        return processes.killAt('reported', process) ? this.#passThenDie(process!)(async () => {}, c) : undefined;
      };
    if (operation === 'status' || operation === 'cancel') {
      if (this.#forgotten.has(id)) return answer(404);
      if (operation === 'status' && this.#answersLeft.get(id) === 0 && this.#forget(id)) return answer(404);
      this.#answersLeft.set(id, (this.#answersLeft.get(id) ?? Infinity) - 1);
    }
    if (operation === 'submit' && random() < 0.15) {
      count(this.counts, 'made into two jobs');
      return (pass, c) => this.#submitTwice(pass, c);
    }
    const other = operation === 'take' && random() < 0.05 && this.#runningElsewhere(by);
    if (other) {
      count(this.counts, 'given to two workers');
      return async () => harness.giveAgain(by, other.id);
    }
    const { share, of } = this.#faults[operation] ?? { share: 0, of: {} };
    if (random() >= share) return undefined;
    const name = chooser(random)(Object.keys(of));
    count(this.counts, `${operation}: ${name}`);
    return of[name];
  }

  /** The server gets the request, and then the process that sent it dies. */
  #passThenDie(process: TestProcess): Fault {
    return (pass, c) =>
      resetAfter(async () => {
        await pass();
        await this.trial.harness.waitFor(() => !process.isAlive(), `${process.id} to die`);
      }, c);
  }

  /** One submission becomes two jobs, as when a proxy repeats it. */
  async #submitTwice(pass: () => Promise<void>, c: Context): Promise<undefined> {
    await pass();
    const { input, webhook } = (await c.req.json()) as { input: { task_id: string }; webhook: string };
    this.trial.harness.submitAny(input, input.task_id, webhook);
  }

  /** A job that runs, and that this worker was not given. */
  #runningElsewhere(worker: string): TestJob | undefined {
    const { harness } = this.trial;
    return [...harness.jobs.values()].find(
      (job) => harness.statusOf(job) === 'IN_PROGRESS' && !harness.wasGivenTo(worker, job.id),
    );
  }

  /**
   * RunPod forgets a job: it is cancelled, or it goes on all the same. Never all jobs of a task.
   * @returns whether it was forgotten
   */
  #forget(id: string): boolean {
    const { harness, jobsOf } = this.trial;
    const job = harness.jobs.get(id);
    if (!job || jobsOf(job.taskId).filter(({ id }) => this.#forgotten.has(id)).length >= MAX_JOBS - 1) return false;
    this.#forgotten.add(id);
    const goesOn = this.random() < 0.5;
    if (!goesOn) harness.cancel(job);
    count(this.counts, goesOn ? 'forgotten, and goes on' : 'forgotten');
    return true;
  }

  /** When the API gets an end that it must announce, it may die before or after it has stored it. */
  #killSettling({ id, by }: Intercepted, fault = passOn): Fault {
    const { harness, records } = this.trial;
    return async (pass, c) => {
      const instead = await fault(pass, c);
      const job = harness.jobs.get(id);
      const isEnd = !instead && job && hasEnded(harness.statusOf(job));
      if (isEnd && records.get(job.taskId)?.plan?.hasWebhook)
        setTimeout(() => this.processes.killAt('settling', harness.findProcess(by)), 60 * Math.random());
      return instead;
    };
  }
}
