import type { Stage } from '../../../core/job.ts';
import { HOUR } from '../../../core/time.ts';
import type { TestProcess } from '../../e2e/child-process.ts';
import type { ApiProcess, Harness, WorkerProcess } from '../../e2e/harness.ts';

/** Lanes of a chaos trial. Each runs one process at a time; when that was killed, the next one starts. */
export class Lanes {
  onStage: (stage: Stage, worker: WorkerProcess) => void = () => {};
  readonly #apis = new Map<string, ApiProcess>();
  readonly #workers = new Map<string, WorkerProcess>();
  #isOver = false;

  constructor(
    private readonly harness: Harness,
    private readonly killed: Set<TestProcess>,
  ) {}

  /** The processes that run now. */
  readonly running = { api: () => [...this.#apis.values()], worker: () => [...this.#workers.values()] };

  /** Runs these APIs and two workers until `stop`. @throws Error if a process ends that was not killed */
  async run(apis: string[], env: Record<string, string>, preload: string[]): Promise<void> {
    const startApi = async (name: string) => {
      const api = await this.harness.startApi(name, env, preload);
      this.#apis.set(name, api);
      return api;
    };
    const startWorker = async (name: string) => {
      const worker = this.harness.startWorker({ WORKER_CONCURRENCY: '2' });
      this.#workers.set(name, worker);
      worker.onStage((_, stage) => this.onStage(stage, worker));
      return worker;
    };
    const workers = ['1', '2'].map((name) => this.#runLane(() => startWorker(name)));
    await Promise.all([...apis.map((name) => this.#runLane(() => startApi(name))), ...workers]);
  }

  async #runLane(start: () => Promise<TestProcess>): Promise<void> {
    while (!this.#isOver) {
      const process = await start();
      const { code, signal } = await this.harness.waitForExit(process, HOUR);
      const isRight = this.killed.has(process) ? signal === 'SIGKILL' : this.#isOver && code === 0;
      if (!isRight) throw new Error(`${process.id} ended with ${signal ?? code}`);
    }
  }

  /** Starts no more processes. */
  abandon(): void {
    this.#isOver = true;
  }

  /** Ends all processes. */
  async stop(): Promise<void> {
    this.abandon();
    const all = [...this.running.api(), ...this.running.worker()];
    for (const process of all) process.kill('SIGTERM');
    for (const process of all) await this.harness.waitForExit(process);
  }
}
