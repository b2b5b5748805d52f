/**
 * `npm run soak -- chaos`: the whole service while its processes are killed at random and at the worst moments (`chaos/processes.ts`), and
 * while RunPod refuses, forgets, duplicates and delays (`chaos/faults.ts`). Outputs are closed, answers of Postgres to changes get lost
 * (`chaos/lost-commits.ts`), the API's disk is full for a while (`chaos/full-disk.mjs`), and its clock jumps ahead and back
 * (`chaos/clock-jumps.mjs`). Callers post, repeat posts that broke off, poll, watch, cancel, receive webhooks and send hostile forms
 * (`chaos/callers.ts`) with API keys, one of which has little money. The trial fails if:
 *
 * - a task does not end, ends twice or fails without a cause, or a job is submitted twice without a cause (`chaos/trial.ts`)
 * - a webhook is missing or has two ids, or files, rows or jobs remain (`chaos/invariants.ts`)
 * - an account differs from the cost of its tasks (`chaos/money.ts`)
 *
 * The clocks of the API, the store and the queue run `rate` times as fast, so that a minute's wait takes seconds: by
 * `chaos/fast-clock.mjs` in the API's processes, by a function `now` in Postgres. The workers' clock is real, because their work is.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import { DAY, SECOND } from '../../core/time.ts';
import { realClock } from '../../infra/simulators/clock.ts';
import { hasPostgres, type LocalPostgres, startPostgres } from '../../infra/simulators/postgres-server.ts';
import { openHarness } from '../e2e/harness.ts';
import { readFlags } from '../support/flags.ts';
import { startPostgresProxy } from '../support/postgres-proxy.ts';
import { isServed, runCallers } from './chaos/callers.ts';
import { Faults } from './chaos/faults.ts';
import { checkLeftovers, checkTasks } from './chaos/invariants.ts';
import { loseCommits } from './chaos/lost-commits.ts';
import { checkAccounts, checkLedger, PRICES } from './chaos/money.ts';
import { Processes } from './chaos/processes.ts';
import { type Counts, count, formatEnd, makeOwners, type TaskRecord, Trial } from './chaos/trial.ts';
import { startReceiver } from './chaos/webhook-receiver.ts';
import { seededRandom } from './prng.ts';

export interface ChaosOptions {
  seed: number;
  tasks: number;
  kills: number;
  /** stores the tasks, for two API processes; without it one API process keeps them in a libSQL file */
  postgres?: LocalPostgres | undefined;
  onProgress?: (text: string) => void;
}

/** How many times as fast the clocks run. */
const RATE = 15;
const NO_LIMITS = { MAX_OPEN_TASKS: '1000000', SUBMISSIONS_PER_MINUTE: '60000', REQUESTS_PER_MINUTE: '60000' };

/** Runs one trial: sets it up, starts everything, and checks what came of it. */
export async function chaos(options: ChaosOptions) {
  const { seed, tasks, kills: killCount, postgres } = options;
  const stream = (purpose: string) => seededRandom(Math.imul(seed, 0x9e3779b1) ^ crc32(purpose));
  const began = Date.now();
  const now = () => began + (Date.now() - began) * RATE;
  const realTime = (ms: number) => began + (ms - began) / RATE;
  const { sleep } = realClock();
  const clock = { now, sleep: (ms: number, signal?: AbortSignal) => sleep(ms / RATE, signal) };

  const folder = await mkdtemp(join(tmpdir(), 'chaos-'));
  const timeouts = { pollTimeout: 5 * SECOND * RATE, workerTimeout: 60 * SECOND * RATE };
  const harness = await openHarness(folder, { clock, ...timeouts });
  const databaseUrl = postgres ? await fastDatabase(postgres, began) : `file:${join(harness.dataDir, 'tasks.db')}`;
  const lossy = postgres && (await startPostgresProxy(postgres.port, loseCommits(stream('lost commits'))));
  const owners = await makeOwners(databaseUrl);
  const trial = new Trial(harness, owners, stream, realTime);
  const processes = new Processes(harness, stream('kills'), stream('pipes'));
  const faults = new Faults(trial, processes);
  const receiver = await startReceiver(trial, processes);

  const preload = [
    `${new URL('chaos/fast-clock.mjs', import.meta.url)}?rate=${RATE}&since=${began}`,
    new URL('chaos/full-disk.mjs', import.meta.url).href,
  ];
  const apiUrl = lossy ? databaseUrl.replace(`:${postgres.port}/`, `:${lossy.port}/`) : databaseUrl;
  const env = { TASK_DEADLINE_SECONDS: String((7 * DAY) / SECOND), DATABASE_URL: apiUrl, ...PRICES, ...NO_LIMITS };
  const reportProgress = () =>
    options.onProgress?.(`${processes.killCount()} kills, ${trial.endedTasks().length} of ${tasks} tasks have ended`);
  const progress = setInterval(reportProgress, 15 * SECOND);
  let results: Awaited<ReturnType<typeof checkAll>> | undefined;
  const limit = 60 * SECOND + SECOND * tasks + 6 * SECOND * killCount;
  const timeout = delay(limit, undefined, { signal: trial.over.signal }).then(() => {
    throw new Error(`not over after ${limit / SECOND} s`);
  });
  try {
    const running = processes.run(postgres ? ['api-1', 'api-2'] : ['api-1'], env, preload);
    const failure = running.then(() => new Promise<never>(() => {})); // only ever rejects
    await Promise.race([failure, runCallersAndKills(trial, options, processes, receiver.url), timeout]);
    results = await Promise.race([failure, checkAll(trial, processes, databaseUrl), timeout]);
    await running;
  } catch (error) {
    trial.addViolation(String((error as Error).message).split('\n')[0]!);
    for (const record of trial.accepted()) if (!isServed(record)) trial.addViolation(describeWait(trial, record));
  } finally {
    clearInterval(progress);
    processes.abandon();
    trial.over.abort();
    await Promise.allSettled([timeout]);
  }

  const { violations, resubmissions } = trial;
  const time = Date.now() - began;
  const logs = violations.length > 0 ? { logs: harness.logTails() } : {};
  await harness.close();
  await receiver.close();
  await lossy?.close();
  await rm(folder, { recursive: true, force: true, maxRetries: 5 }); // the kernel may still finish what a killed process began
  const { counts, callbacks } = faults;
  const seen = {
    kills: processes.kills,
    closedPipes: processes.closedPipes,
    lostCommits: lossy?.lost() ?? 0,
    faults: counts,
    callbacks,
    webhooks: receiver.counts,
  };
  return { ...results, ...seen, resubmissions, time, violations, ...logs };
}

/** Callers and kills wait for each other, so that both are spread over the whole trial. */
async function runCallersAndKills(
  trial: Trial,
  { tasks, kills }: ChaosOptions,
  processes: Processes,
  webhookUrl: string,
): Promise<void> {
  const { harness } = trial;
  const accepted = () => trial.accepted().length;
  const mayPost = (n: number) => processes.killCount() >= Math.floor((kills * (n - 10)) / tasks);
  await Promise.all([
    runCallers(trial, processes, webhookUrl, tasks, mayPost),
    processes.killSome(kills, (n) => accepted() > (tasks * n) / kills),
  ]);
  const isIdle = () => {
    const { inQueue, inProgress } = harness.queue.health().jobs;
    return inQueue + inProgress === 0;
  };
  await harness.waitFor(isIdle, 'the last job', 60 * SECOND);
  await harness.waitFor(processes.areAllUp, 'all processes to be up', 60 * SECOND);
}

async function checkAll(trial: Trial, processes: Processes, databaseUrl: string) {
  await checkTasks(trial, processes.apisUp());
  const accounts = await checkAccounts(trial, processes.apisUp());
  await processes.stop();
  const leftovers = await checkLeftovers(trial);
  await checkLedger(trial, databaseUrl);
  const [ends, tasksByJobs]: [Counts, Counts] = [{}, {}];
  const tasks = trial.endedTasks();
  for (const task of tasks) {
    count(ends, formatEnd(task));
    count(tasksByJobs, trial.jobsOf(task.id).length);
  }
  return { tasks: tasks.length, repeatedPosts: trial.brokenPosts, ends, tasksByJobs, accounts, leftovers };
}

/** All that is known of a task that a caller still waits for. */
function describeWait(trial: Trial, { id, plan, end, ...seen }: TaskRecord): string {
  const facts = JSON.stringify({ ...plan, owner: plan?.owner.name, ...seen, hasEnded: !!end });
  return `a caller waits for ${id}: ${facts}; its jobs: ${trial.describeJobs(id)}`;
}

/** A database whose clock runs fast: our `now` comes before Postgres's own. */
async function fastDatabase(postgres: LocalPostgres, since: number): Promise<string> {
  const { name, url } = await postgres.database();
  const fast = `${since / SECOND} + (extract(epoch from pg_catalog.now()) - ${since / SECOND}) * ${RATE}`;
  await postgres.query(
    name,
    `create function now() returns timestamptz language sql stable return to_timestamp(${fast})`,
  );
  await postgres.query(name, `alter database ${name} set search_path = public, pg_catalog`);
  return url;
}

/** Runs trials as the flags say. @returns whether no trial had a violation */
export async function soak(args: string[]): Promise<boolean> {
  const defaults = { tasks: 500, kills: 100, seed: Date.now() % 1e6, store: 'libsql,postgres' };
  const { tasks, kills, seed, store } = readFlags(args, defaults);
  const stores = store.split(',');
  if (!stores.every((name) => ['libsql', 'postgres'].includes(name)))
    throw new Error('--store must be libsql, postgres, or both with a comma between them');
  if (stores.includes('postgres') && !hasPostgres)
    throw new Error('PostgreSQL is not installed: use --store libsql to try only the other one');
  let isClean = true;
  for (const store of stores) {
    console.log(`${store}: ${tasks} tasks, ${kills} kills, seed ${seed}`);
    const postgres = store === 'postgres' ? await startPostgres() : undefined;
    const trial = chaos({ seed, tasks, kills, postgres, onProgress: console.log });
    const { logs, violations, ...report } = await trial.finally(() => postgres?.stop());
    console.dir({ ...report, time: `${Math.round(report.time / SECOND)} s` }, { depth: null });
    for (const violation of violations) console.log(`VIOLATION ${violation}`);
    if (logs) console.log(`seed ${seed}\n${logs}`);
    isClean &&= violations.length === 0;
  }
  return isClean;
}
