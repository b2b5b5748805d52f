/** Kills of a chaos trial, each at a chosen moment. */
import { setTimeout as delay } from 'node:timers/promises';
import { STAGES } from '../../../core/job.ts';
import { HOUR, SECOND } from '../../../core/time.ts';
import type { TestProcess } from '../../e2e/child-process.ts';
import { chooser } from '../prng.ts';
import { type Counts, count } from './observations.ts';
import type { Trial } from './trial.ts';

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

export class Kills {
  readonly counts: Counts = {};
  /** the moment of the next kill */
  #planned: Moment | undefined;

  constructor(private readonly trial: Trial) {}

  isUp = (process: TestProcess) =>
    process.isReady() && process.isAlive() && !this.trial.observations.killed.has(process);
  areAllUp = () => [...this.trial.running.api(), ...this.trial.running.worker()].every(this.isUp);
  isPlanned = (moment: Moment) => this.#planned === moment;
  done = () => Object.values(this.counts).reduce((sum, n) => sum + n, 0);

  /** Kills the process if a kill is planned for this moment. @returns whether it was killed just now */
  killAt = (moment: Moment, process: TestProcess | undefined): boolean => {
    const { harness, observations } = this.trial;
    const { killed } = observations;
    if (this.#planned !== moment || !process?.isAlive() || killed.has(process)) return false;
    this.#planned = undefined;
    killed.add(process);
    process.kill('SIGKILL');
    count(this.counts, `${process.id.split('-')[0]}: ${moment}`);
    harness.notifyChange();
    return true;
  };

  /**
   * Kills processes one after the other, workers and APIs alternately. If the planned moment does not come in time, any will do.
   * @param isDue whether it is time for the n-th kill
   */
  async run(kills: number, isDue: (n: number) => boolean): Promise<void> {
    const { harness, running, stream } = this.trial;
    const random = stream('kills');
    for (let n = 0; n < kills; n++) {
      await harness.waitFor(() => isDue(n), 'time for a kill', HOUR);
      const [moments, victims] = n % 2 ? [API_MOMENTS, running.api] : [WORKER_MOMENTS, running.worker];
      this.#planned = chooser(random)<Moment>(moments);
      const timeout = this.#planned === 'any' ? 300 * random() : 3 * SECOND;
      const mayStart = random() < 0.3; // the next kill may hit a process that is still starting
      await Promise.race([harness.waitFor(() => this.#planned === undefined, 'a kill', HOUR), delay(timeout)]);
      if (this.#planned !== undefined) {
        this.#planned = 'any';
        await harness.waitFor(() => victims().some((one) => this.killAt('any', one)), 'a process to kill', HOUR);
      }
      if (!mayStart) await harness.waitFor(this.areAllUp, 'all processes to be up again', 60 * SECOND);
    }
  }
}
