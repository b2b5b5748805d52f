/** Faults of a chaos trial: whatever RunPod may answer, and kills in the middle of requests. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Context } from 'hono';
import { MAX_JOBS } from '../../../api/tasks/transition.ts';
import { after, answer, type Fault, type Intercepted, reset, resetAfter } from '../../e2e/fault-injection.ts';
import { chooser } from '../prng.ts';
import type { Kills, Moment } from './kills.ts';
import { type Counts, count, type Submission } from './observations.ts';
import type { Trial } from './trial.ts';

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
  await again;
  return undefined;
};
const [busy, broken, down] = [answer(429), answer(500), answer(503)];

/** Injects faults into a harness. */
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
    private readonly kills: Kills,
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
    trial.harness.fault = (request) => {
      const fault = this.#choose(request);
      if (request.operation === 'callback') this.callbacks++;
      if (request.operation === 'submit') return this.#observeSubmission(request, fault);
      if (request.operation === 'status') return this.#observeStatus(request, fault);
      return fault;
    };
  }

  #choose(request: Intercepted): Fault | undefined {
    const [kills, random] = [this.kills, this.random];
    const { operation, by, id } = request;
    const process = this.#find(by);
    const moment = MOMENTS[operation];
    if (moment && kills.killAt(moment, process)) {
      if (operation === 'callback') return undefined;
      return operation === 'submit' ? this.#passThenDie(by) : reset;
    }
    if (operation === 'outcome' && kills.isPlanned('reported'))
      return async (pass, c) => {
        await pass();
        return kills.killAt('reported', process) ? this.#passThenDie(by)(async () => {}, c) : undefined;
      };
    if (operation === 'status' || operation === 'cancel') {
      if (this.#forgotten.has(id)) return answer(404);
      if (operation === 'status' && this.#answersLeft.get(id) === 0 && this.#forget(id)) return answer(404);
      this.#answersLeft.set(id, (this.#answersLeft.get(id) ?? Infinity) - 1);
    }
    if (operation === 'submit' && random() < 0.15) {
      count(this.counts, 'made into two jobs');
      return (pass, c) => this.#submitTwice(by, pass, c);
    }
    const other = operation === 'take' && random() < 0.05 && this.#runningElsewhere(by);
    if (other) {
      count(this.counts, 'given to two workers');
      return async () => this.trial.harness.giveAgain(by, other);
    }
    const { share, of } = this.#faults[operation] ?? { share: 0, of: {} };
    if (random() >= share) return undefined;
    const name = chooser(random)(Object.keys(of));
    count(this.counts, `${operation}: ${name}`);
    return of[name];
  }

  #find(id: string) {
    const { api, worker } = this.trial.running;
    return [...api(), ...worker()].find((one) => one.id === id);
  }

  /** The server gets the request, and then the process that sent it dies. */
  #passThenDie(by: string): Fault {
    const process = this.#find(by)!;
    return (pass, c) =>
      resetAfter(async () => {
        await pass();
        await this.trial.harness.waitFor(() => !process.isAlive(), `${by} to die`);
      }, c);
  }

  /** One submission becomes two jobs, as when a proxy repeats it. */
  async #submitTwice(by: string, pass: () => Promise<void>, c: Context): Promise<undefined> {
    await pass();
    const { input, webhook } = (await c.req.json()) as { input: { task_id: string }; webhook: string };
    const { id: job } = this.trial.harness.submitAny(input, input.task_id, webhook);
    this.trial.observations.submissions.set(job, this.#submission(input.task_id, job, by));
  }

  #submission(task: string, job: string, by: string): Submission {
    const api = this.#find(by)!;
    return { task, job, api, at: this.trial.now(), answered: false, statusSeen: false, unknown: false };
  }

  /** A job that runs, and that this worker was not given. */
  #runningElsewhere(worker: string): string | undefined {
    const { harness, observations } = this.trial;
    return [...observations.submissions.keys()].find(
      (job) => harness.queue.find(job)?.status === 'IN_PROGRESS' && !harness.wasGivenTo(worker, job),
    );
  }

  /**
   * RunPod forgets a job: it is cancelled, or it goes on all the same. Never all jobs of a task.
   * @returns whether it was forgotten
   */
  #forget(job: string): boolean {
    const { harness, observations } = this.trial;
    const task = observations.submissions.get(job)?.task;
    const queued = harness.queue.find(job);
    if (task === undefined || !queued) return false;
    if (observations.submissionsOf(task).filter(({ job }) => this.#forgotten.has(job)).length >= MAX_JOBS - 1)
      return false;
    this.#forgotten.add(job);
    const goesOn = this.random() < 0.5;
    if (!goesOn) harness.queue.cancel(queued);
    count(this.counts, goesOn ? 'forgotten, and goes on' : 'forgotten');
    return true;
  }

  /** Notes the job that is made, and whether the API gets its id. */
  #observeSubmission({ by, body }: Intercepted, fault: Fault | undefined): Fault {
    const { observations } = this.trial;
    return async (pass, c) => {
      let made: Submission | undefined;
      const passAndNote = async () => {
        await pass();
        const { id: job } = await c.res.clone().json();
        made = this.#submission(String((body.input as { task_id?: unknown }).task_id), job, by);
        observations.seeSubmission(made);
        if (this.random() < 0.15) this.#answersLeft.set(job, Math.floor(6 * this.random()));
      };
      const instead = await fault?.(passAndNote, c);
      if (!instead && !made) await passAndNote();
      if (!instead && made) made.answered = !c.req.raw.signal.aborted;
      return instead;
    };
  }

  /** Notes which status the API gets. When it gets an end that it must announce, it may die before or after it has stored it. */
  #observeStatus({ id, by }: Intercepted, fault: Fault | undefined): Fault {
    const { observations } = this.trial;
    return async (pass, c) => {
      let hasPassed = false;
      const passAndNote = async () => {
        hasPassed = true;
        await pass();
      };
      const instead = await fault?.(passAndNote, c);
      if (!instead && !hasPassed) await pass();
      const { status } = instead ?? c.res;
      const submission = observations.submissions.get(id);
      if (!submission) return instead;
      if (status === 404) submission.unknown = true;
      if (instead || status !== 200) return instead;
      Object.assign(submission, { statusSeen: true, unknown: false });
      const job = await c.res.clone().json();
      const isOver = job.status !== 'IN_QUEUE' && job.status !== 'IN_PROGRESS';
      if (isOver && observations.plans.get(submission.task)?.hasWebhook)
        setTimeout(() => this.kills.killAt('settling', this.#find(by)), 60 * Math.random());
      return instead;
    };
  }
}
