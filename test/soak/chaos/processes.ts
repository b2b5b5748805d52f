/** The processes of a chaos trial: each is killed at a chosen moment, and followed by another one. */
import { setTimeout as delay } from 'node:timers/promises';
import { STAGES } from '../../../core/job.ts';
import { HOUR, SECOND } from '../../../core/time.ts';
import type { TestProcess } from '../../e2e/child-process.ts';
import type { Harness } from '../../e2e/harness.ts';
import { chooser } from '../prng.ts';
import { type Counts, count } from './trial.ts';

const API_MOMENTS = [
  'submitting',
  'getting a status',
  'settling',
  'posting',
  'announcing',
  'called back',
  'any',
] as const;
const WORKER_MOMENTS = ['reporting', 'reported', 'any', ...STAGES] as const;
export type Moment = (typeof API_MOMENTS | typeof WORKER_MOMENTS)[number];

/** Share of the processes whose output is closed. */
const CLOSED_PIPES = 0.2;

const isUp = (process: TestProcess) => process.isReady() && process.isAlive() && !process.wasKilled();

export class Processes {
  readonly kills: Counts = {};
  /** processes whose output was closed */
  closedPipes = 0;
  /** the moment of the next kill */
  #planned: Moment | undefined;
  /** how many shall be up */
  #target = 0;
  #isOver = false;

  constructor(
    private readonly harness: Harness,
    private readonly random: () => number,
    private readonly pipes: () => number,
  ) {}

  apisUp = () => this.harness.apis.filter(isUp);
  areAllUp = () => this.harness.processes.filter(isUp).length === this.#target;
  killCount = () => Object.values(this.kills).reduce((sum, n) => sum + n, 0);
  isPlanned = (moment: Moment) => this.#planned === moment;

  /** Runs these APIs and two workers until `stop`. @throws Error if a process ends that was not killed */
  async run(apis: string[], env: Record<string, string>, preload: string[]): Promise<void> {
    const startWorker = async () => {
      const worker = this.harness.startWorker({ WORKER_CONCURRENCY: '2' });
      worker.onStage((_, stage) => this.killAt(stage, worker));
      return worker;
    };
    const starts = [...apis.map((name) => () => this.harness.startApi(name, env, preload)), startWorker, startWorker];
    this.#target = starts.length;
    await Promise.all(starts.map((start) => this.#keepRunning(start)));
  }

  async #keepRunning(start: () => Promise<TestProcess>): Promise<void> {
    while (!this.#isOver) {
      const process = await start();
      if (this.pipes() < CLOSED_PIPES) void this.#closeOutput(process);
      const { code, signal } = await this.harness.waitForExit(process, HOUR);
      const isRight = process.wasKilled() ? signal === 'SIGKILL' : this.#isOver && code === 0;
      if (!isRight) throw new Error(`${process.id} ended with ${signal ?? code}`);
    }
  }

  /** Closes the output of a process once it is ready: then the log is not needed to see that. */
  async #closeOutput(process: TestProcess): Promise<void> {
    await this.harness.waitFor(() => process.isReady() || !process.isAlive(), `${process.id} to be ready`, HOUR);
    if (!process.isAlive()) return;
    process.closeOutput();
    this.closedPipes++;
  }

  /** Starts no more processes. */
  abandon(): void {
    this.#isOver = true;
  }

  /** Ends all processes. */
  async stop(): Promise<void> {
    this.abandon();
    const alive = this.harness.processes.filter(({ isAlive }) => isAlive());
    for (const { kill } of alive) kill('SIGTERM');
    for (const process of alive) await this.harness.waitForExit(process);
  }

  /** Kills the process if a kill is planned for this moment. @returns whether it was killed just now */
  killAt(moment: Moment, process: TestProcess | undefined): boolean {
    if (this.#planned !== moment || !process?.isAlive() || process.wasKilled()) return false;
    this.#planned = undefined;
    process.kill('SIGKILL');
    count(this.kills, `${process.id.split('-')[0]}: ${moment}`);
    this.harness.notifyChange();
    return true;
  }

  /**
   * Kills processes one after the other, workers and APIs alternately. If the planned moment does not come in time, any will do.
   * @param isDue whether it is time for the n-th kill
   */
  async killSome(kills: number, isDue: (n: number) => boolean): Promise<void> {
    const { harness, random } = this;
    for (let n = 0; n < kills; n++) {
      await harness.waitFor(() => isDue(n), 'time for a kill', HOUR);
      const [moments, victims] = n % 2 ? [API_MOMENTS, harness.apis] : [WORKER_MOMENTS, harness.workers];
      this.#planned = chooser(random)<Moment>(moments);
      const timeout = this.#planned === 'any' ? 300 * random() : 3 * SECOND;
      const mayStart = random() < 0.3; // the next kill may hit a process that is still starting
      await Promise.race([harness.waitFor(() => this.#planned === undefined, 'a kill', HOUR), delay(timeout)]);
      if (this.#planned !== undefined) {
        this.#planned = 'any';
        await harness.waitFor(() => victims.some((one) => this.killAt('any', one)), 'a process to kill', HOUR);
      }
      if (!mayStart) await harness.waitFor(this.areAllUp, 'all processes to be up again', 60 * SECOND);
    }
  }
}
