/**
 * `npm run soak -- chaos`: the whole service while its processes are killed at random and at the worst moments, and while RunPod refuses,
 * forgets, duplicates and delays (`chaos/storm.ts`). Callers post, repeat posts that broke off, poll, watch, cancel and take webhooks
 * (`chaos/callers.ts`) with API keys, one of which is short of money (`chaos/owners.ts`). It fails if a task does not end, ends twice or
 * as it should not, if a job is submitted twice without a reason (`chaos/ledger.ts`), if a webhook is not heard or heard under two ids, if
 * an account is not to the micro-unit what its tasks cost (`chaos/money.ts`), or if anything is left lying about (`chaos/judge.ts`).
 *
 * The API's clock, the store's and the queue's run `rate` times as fast, so that a minute's waiting takes seconds: by
 * `chaos/fast-clock.mjs` in the API's processes, by a function `now` in Postgres. The workers' clock is the real one, for their work is.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { crc32 } from 'node:zlib';
import { DAY, HOUR, SECOND } from '../../core/time.ts';
import { realClock } from '../../infra/simulators/clock.ts';
import { hasPostgres, type LocalPostgres, startPostgres } from '../../infra/simulators/postgres-server.ts';
import { type ApiProcess, openScene, type WorkerProcess } from '../e2e/fault-injection.ts';
import { createCallers } from './chaos/callers.ts';
import { createStorm } from './chaos/faults.ts';
import { createJudge } from './chaos/invariants.ts';
import { type Counts, count, createLedger, howEnded } from './chaos/ledger.ts';
import { type Account, createAuditor, PRICES } from './chaos/money.ts';
import { makeOwners, NO_LIMITS } from './chaos/owners.ts';
import { numbers } from './prng.ts';

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
  /** told now and then how far it is */
  onProgress?: (text: string) => void;
}

export interface ChaosReport {
  /** accepted */
  tasks: number;
  /** posts that broke off, and were repeated */
  repeated: number;
  /** how they ended */
  ends: Counts;
  kills: Counts;
  faults: Counts;
  /** tasks by the number of their jobs */
  jobs: Counts;
  /** submissions of a task after its first, by what led to them */
  further: Counts;
  callbacks: number;
  webhooks: { heard: number; refused: number };
  /** by the key's name */
  money: Record<string, Account>;
  /** what killed processes have left of which nobody could know */
  left: Counts;
  /** milliseconds */
  time: number;
  /** what should not have happened */
  found: string[];
  /** the last lines of the processes' logs, if anything was found */
  logs?: string;
}

export async function chaos(options: ChaosOptions): Promise<ChaosReport> {
  const { seed, tasks, kills, postgres, cancels = 0.15, rate = 15, onProgress } = options;
  /** Each kind of choice has numbers of its own, so that one more of the one kind leaves the others as they are. */
  const stream = (name: string) => numbers(Math.imul(seed, 0x9e3779b1) ^ crc32(name));
  const began = Date.now();
  const now = () => began + (Date.now() - began) * rate;
  const { sleep } = realClock();
  const clock = { now, sleep: (ms: number, signal?: AbortSignal) => sleep(ms / rate, signal) };

  const folder = await mkdtemp(join(tmpdir(), 'chaos-'));
  const scene = await openScene(folder, { clock, hold: 5 * SECOND * rate, workerTimeout: 60 * SECOND * rate });
  const ledger = createLedger(scene.changed);
  const { plans, found, find } = ledger;
  const names = postgres ? ['api-1', 'api-2'] : ['api-1'];
  const apis = new Map<string, ApiProcess>();
  const workers = new Map<string, WorkerProcess>(); // by lane
  const running = { api: () => [...apis.values()], worker: () => [...workers.values()] };
  const storm = createStorm({ scene, ledger, running, kills, stream, now });
  const databaseUrl = postgres ? await fastDatabase(postgres, rate, began) : `file:${join(scene.dataDir, 'tasks.db')}`;
  const owners = await makeOwners(databaseUrl);
  const callers = await createCallers({ scene, ledger, storm, owners, apis: running.api, cancels, stream });
  const judge = createJudge(scene, ledger, owners);
  const realTime = (ms: number) => began + (ms - began) / rate;
  const auditor = createAuditor({ scene, ledger, owners, realTime });

  const preload = [`${new URL('chaos/fast-clock.mjs', import.meta.url)}?rate=${rate}&since=${began}`];
  const env = {
    TASK_DEADLINE_SECONDS: String((7 * DAY) / SECOND),
    DATABASE_URL: databaseUrl,
    ...PRICES,
    ...NO_LIMITS,
  };
  async function startApi(name: string) {
    const api = await scene.startApi(name, env, preload);
    apis.set(name, api);
    return api;
  }
  async function startWorker(lane: string) {
    const worker = scene.startWorker({ WORKER_CONCURRENCY: '2' });
    workers.set(lane, worker);
    storm.watch(worker);
    return worker;
  }
  let isOver = false;
  /** A process at a time, until all is over. */
  async function lane(name: string, start: (name: string) => Promise<ApiProcess | WorkerProcess>) {
    while (!isOver) {
      const process = await start(name);
      const { code, signal } = await process.ended(HOUR);
      const isRight = ledger.killed.has(process) ? signal === 'SIGKILL' : isOver && code === 0;
      if (!isRight) throw new Error(`${process.id} ended with ${signal ?? code}`);
    }
  }

  async function trial() {
    const lanes = [...names.map((name) => lane(name, startApi)), ...['1', '2'].map((name) => lane(name, startWorker))];
    const failure = Promise.all(lanes).then(() => new Promise<never>(() => {})); // rejects with the first of them that fails
    await Promise.race([failure, all()]);
    await Promise.all(lanes);
  }
  const report: Pick<ChaosReport, 'tasks' | 'repeated' | 'ends' | 'jobs' | 'left' | 'money'> = {
    ...{ tasks: 0, repeated: 0, ends: {}, jobs: {}, left: {}, money: {} },
  };
  async function all() {
    const accepted = () => plans.size;
    const { struck } = storm;
    await Promise.all([
      // Not so fast that no task is left for the blows, nor the other way round.
      callers.all(tasks, (n) => struck() >= Math.floor((kills * (n - 10)) / tasks)),
      storm.blows((n) => {
        onProgress?.(`${struck()} kills, ${accepted()} tasks accepted, ${ledger.ended()} ended`);
        return accepted() > (tasks * n) / kills;
      }),
    ]);
    const isIdle = ({ inQueue, inProgress }: { inQueue: number; inProgress: number }) => inQueue + inProgress === 0;
    await scene.until(() => isIdle(scene.queue.health().jobs), 'the last job', 60 * SECOND);
    const everybody = () => [...running.api(), ...running.worker()];
    await scene.until(() => everybody().every(storm.isUp), 'all to be up', 60 * SECOND);

    const shown = await judge.tasks(running.api());
    for (const task of shown.values()) {
      count(report.ends, howEnded(task));
      count(report.jobs, ledger.ofTask(task.id).length);
    }
    report.tasks = accepted();
    report.repeated = callers.broken();
    if (shown.size > accepted()) find(`${shown.size} tasks, and ${accepted()} were posted`);
    report.money = await auditor.accounts(running.api(), shown, callers.refused);
    isOver = true;
    for (const process of everybody()) process.kill('SIGTERM');
    for (const process of everybody()) await process.ended();
    report.left = await judge.litter(shown, callers.broken());
    await auditor.books(databaseUrl, shown);
  }

  const limit = 60 * SECOND + SECOND * tasks + 6 * SECOND * kills;
  const inTime = new AbortController();
  const late = delay(limit, undefined, { signal: inTime.signal }).then(() => {
    throw new Error(`not over after ${limit / SECOND} s`);
  });
  try {
    await Promise.race([trial(), late]);
  } catch (error) {
    find(String((error as Error).message).split('\n')[0]!);
    for (const id of callers.waiting) find(dossier(id));
  } finally {
    isOver = true;
    inTime.abort();
    await Promise.allSettled([late]);
  }

  /** All that is known of a task that a caller waits for. */
  function dossier(id: string): string {
    const jobs = ledger
      .ofTask(id)
      .map(({ api, ...job }) => ({ ...job, by: api.id, is: scene.queue.find(job.job)?.status }));
    const { hasEnded, cancelled, deliveries } = ledger;
    const heard = deliveries.get(id)?.heard ?? 0;
    const facts = {
      ...plans.get(id),
      owner: plans.get(id)?.owner.name,
      cancelled: cancelled.has(id),
      hasEnded: hasEnded(id),
      heard,
      jobs,
    };
    return `${id} is waited for: ${JSON.stringify(facts)}`;
  }

  const time = Date.now() - began;
  const logs = found.length > 0 ? { logs: scene.lastWords() } : {};
  await scene.close();
  await callers.close();
  await rm(folder, { recursive: true, force: true, maxRetries: 5 }); // what a killed process began the kernel may still finish
  const { webhooks } = callers;
  return {
    ...report,
    ...storm.counts,
    further: ledger.further,
    callbacks: storm.callbacks(),
    webhooks,
    time,
    found,
    ...logs,
  };
}

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
