/**
 * The money of a chaos trial. Each task's cost is computed here independently, from what lies in the bucket, and compared with everything
 * that the API presents and stores. Amounts are micro-units.
 */
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { openLibsql } from '../../../api/store/libsql.ts';
import { openPostgres } from '../../../api/store/postgres.ts';
import { bucketFolder } from '../../../core/environment.ts';
import { taskFolder } from '../../../core/job.ts';
import type { PresentedTask, Usage } from '../../../core/responses.ts';
import { SECOND } from '../../../core/time.ts';
import type { ApiProcess } from '../../e2e/harness.ts';
import type { Counts } from './observations.ts';
import type { Owner } from './owners.ts';
import type { Trial } from './trial.ts';

/** Hardly any two tasks cost the same: a millisecond costs seven micro-units and a fraction. */
export const PRICES = { PRICE_PER_GPU_SECOND: '0.0071234567', PRICE_PER_STILL: '0.030011' };
const costOfGpu = (ms: number) => Math.ceil((ms * 71_234_567) / 10_000_000);
const STILL = 30_011;

/** Milliseconds by which the file system's clock may lag. */
const FILE_CLOCK_LAG = 20;
const DELIVERY_TIMEOUT = 60 * SECOND;

/** What GET /webhooks/deliveries answers. */
interface PresentedDelivery {
  id: string;
  task_id?: string;
  type: string;
  status: string;
  error?: string;
  status_code?: number;
}

export interface Account {
  budget: number | null;
  spent: number;
  tasks: number;
  /** posts that were answered 402 */
  refused: number;
}

const sum = (amounts: number[]) => amounts.reduce((total, amount) => total + amount, 0);

/** What is wrong with an account: an amount that is no whole number from 0, or `left` that is not the rest of the budget. */
export function violationOf({ budget, spent, reserved, left, open_tasks }: Usage, owner: Owner): string | undefined {
  const isSound =
    budget === owner.budget &&
    [spent, reserved, open_tasks].every((amount) => Number.isSafeInteger(amount) && amount >= 0) &&
    (budget === null ? left === null : left === budget - spent - reserved && left >= 0);
  if (isSound) return undefined;
  return `${owner.name}: spent ${spent}, reserved ${reserved}, left ${left} of ${budget}, ${open_tasks} active tasks`;
}

/** Costs, accounts and deliveries as the API presents them, once all tasks have ended. @returns accounts by key name */
export async function checkAccounts(trial: Trial, tasks: Map<string, PresentedTask>, refused: Counts) {
  const { owners, running, observations } = trial;
  const apis = running.api();
  const accounts: Record<string, Account> = {};
  for (const task of tasks.values()) await checkCost(trial, task);
  for (const owner of owners) {
    const own = [...tasks.values()].filter(({ id }) => observations.plans.get(id)?.owner === owner);
    let spent = 0;
    for (const api of apis) spent = await checkAccount(trial, api, owner, own);
    await checkDeliveries(trial, apis[0]!, owner, own);
    accounts[owner.name] = { budget: owner.budget, spent, tasks: own.length, refused: refused[owner.name] ?? 0 };
  }
  return accounts;
}

async function checkCost(trial: Trial, task: PresentedTask): Promise<void> {
  const { addViolation } = trial.observations;
  const { id, status, cost } = task;
  const [ms, stills] = await Promise.all([gpuTimeOf(trial, task), stillsOf(trial, task)]);
  const most = costOfGpu(ms); // less if that was not reserved: see `checkLedger`
  const ofGpu = cost ? cost.amount - cost.stills * STILL : -1;
  if (cost?.currency !== 'USD' || cost.gpu_seconds !== ms / 1000 || ofGpu < 0 || ofGpu > most)
    addViolation(`${id}, ${status}: ${ms} ms cost at most ${most}, and not ${JSON.stringify(cost)}`);
  else if (!stills.includes(cost.stills))
    addViolation(`${id}, ${status}, paid for ${cost.stills} pictures, not ${stills}`);
}

const fileOf = ({ harness }: Trial, id: string, name: string) =>
  join(bucketFolder(harness.dataDir), 'objects', taskFolder(id), name);

/** Milliseconds that the GPU worked for the task's result. */
async function gpuTimeOf(trial: Trial, { id, status }: PresentedTask): Promise<number> {
  if (status !== 'succeeded') return 0;
  const { output } = JSON.parse(await readFile(fileOf(trial, id, 'result.json'), 'utf8'));
  return output.timings_ms.sampling + output.timings_ms.decoding;
}

/** How many pictures of the bridge may be charged: one that was saved while the task ended may count or not. */
async function stillsOf(trial: Trial, { id, status, input, finished_at }: PresentedTask): Promise<number[]> {
  if (input.prompt === undefined) return [0];
  const saved = await stat(fileOf(trial, id, `imagine-${input.image_index}.png`)).catch(() => undefined);
  if (!saved) return [0];
  const isBefore = saved.ctimeMs + FILE_CLOCK_LAG < trial.realTime(Date.parse(finished_at!));
  return status === 'succeeded' || isBefore ? [1] : [0, 1];
}

/** @returns what the key has spent */
async function checkAccount(
  trial: Trial,
  { url, id: api }: ApiProcess,
  owner: Owner,
  tasks: PresentedTask[],
): Promise<number> {
  const { addViolation } = trial.observations;
  const usage: Usage = await getJson(`${url}/usage?since=2000-01-01`, owner);
  const { month, spent, reserved, open_tasks, days } = usage;
  const violation = violationOf(usage, owner);
  if (violation) addViolation(`${api}, at the end: ${violation}`);
  if (reserved !== 0 || open_tasks !== 0)
    addViolation(`${api}: all tasks of ${owner.name} have ended; ${reserved} reserved, ${open_tasks} active tasks`);
  const costs = (of: PresentedTask[]) => sum(of.map(({ cost }) => cost?.amount ?? 0));
  const ofMonth = costs(tasks.filter(({ finished_at }) => finished_at!.startsWith(month)));
  if (spent !== ofMonth) addViolation(`${api}: ${owner.name} has spent ${spent}, and its tasks cost ${ofMonth}`);

  const toMs = (seconds: number) => Math.round(seconds * 1000);
  const presented = days.map(({ day, tasks, amount, gpu_seconds, stills }) =>
    [day, tasks, amount, toMs(gpu_seconds), stills].join(' '),
  );
  const dayOf = ({ finished_at }: PresentedTask) => finished_at!.slice(0, 10);
  const expected = [...new Set(tasks.map(dayOf))].sort().map((day) => {
    const some = tasks.filter((task) => dayOf(task) === day);
    const gpuTime = sum(some.map(({ cost }) => toMs(cost?.gpu_seconds ?? 0)));
    return [day, some.length, costs(some), gpuTime, sum(some.map(({ cost }) => cost?.stills ?? 0))].join(' ');
  });
  if (presented.join() !== expected.join())
    addViolation(`${api}, days of ${owner.name}: ${presented}; its tasks have ${expected}`);
  return spent;
}

/** Waits until no delivery is pending. Then each task with a webhook has one delivery, the one that was accepted. */
async function checkDeliveries(trial: Trial, api: ApiProcess, owner: Owner, tasks: PresentedTask[]): Promise<void> {
  const { plans, webhooks, addViolation } = trial.observations;
  const late = Date.now() + DELIVERY_TIMEOUT;
  let all = await listDeliveries(api, owner);
  while (all.some(({ status }) => status === 'pending') && Date.now() < late) {
    await delay(100);
    all = await listDeliveries(api, owner);
  }
  for (const { id, status, type, task_id, status_code, error } of all) {
    if (status !== 'delivered') addViolation(`delivery ${id} of ${task_id} is ${status}: ${status_code ?? error}`);
    const received = [...(webhooks.get(task_id!)?.ids ?? [])];
    if (received.join() !== id) addViolation(`${task_id} has delivery ${id}, and ${received} came`);
    const task = tasks.find(({ id }) => id === task_id);
    if (type !== `task.${task?.status}`) addViolation(`delivery ${id} of ${owner.name} says ${type} of ${task_id}`);
  }
  for (const { id } of tasks) {
    const count = all.filter(({ task_id }) => task_id === id).length;
    const expected = plans.get(id)!.hasWebhook ? 1 : 0;
    if (count !== expected) addViolation(`${id} has ${count} deliveries, and should have ${expected}`);
  }
}

/** The rows in the database, when all processes have ended. */
export async function checkLedger(trial: Trial, databaseUrl: string, tasks: Map<string, PresentedTask>): Promise<void> {
  const { plans, addViolation } = trial.observations;
  const { db, close } = await (databaseUrl.startsWith('file:')
    ? openLibsql(databaseUrl, () => 0, true)
    : openPostgres(databaseUrl, () => 0, 30 * SECOND));
  const rows = await db.selectFrom('ledger').selectAll().execute();
  const keys = await db.selectFrom('keys').selectAll().execute();
  await close();
  if (rows.length !== tasks.size) addViolation(`the ledger has ${rows.length} rows, for ${tasks.size} tasks`);
  for (const { task_id, owner, reserved, settled_at, status, amount, gpu_time, stills } of rows) {
    const task = tasks.get(task_id);
    if (!task) continue; // there are too many rows
    const { cost, finished_at, input } = task;
    const most = reserved - (input.prompt === undefined ? 0 : STILL);
    const due = Math.min(most, costOfGpu(gpu_time ?? 0)) + cost!.stills * STILL;
    const is = [owner, status, settled_at, amount, (gpu_time ?? 0) / 1000, stills].join();
    const payer = plans.get(task_id)?.owner.id;
    const expected = [payer, task.status, Date.parse(finished_at!), due, cost!.gpu_seconds, cost!.stills].join();
    if (is !== expected || due !== cost!.amount)
      addViolation(`${task_id}: the ledger has ${is}, not ${expected}; the API presents ${cost!.amount}`);
  }
  for (const { name, reserved, active_tasks } of keys)
    if (reserved !== 0 || active_tasks !== 0)
      addViolation(`the key ${name} has ${reserved} reserved and ${active_tasks} active tasks`);
}

async function getJson(url: string, { headers }: Owner) {
  const response = await fetch(url, { headers });
  if (response.status !== 200) throw new Error(`${url} was answered ${response.status}`);
  return response.json();
}

async function listDeliveries({ url }: ApiProcess, owner: Owner): Promise<PresentedDelivery[]> {
  const all: PresentedDelivery[] = [];
  for (let cursor = ''; ; cursor = `&cursor=${all.at(-1)!.id}`) {
    const page: PresentedDelivery[] = await getJson(`${url}/webhooks/deliveries?limit=1000${cursor}`, owner);
    all.push(...page);
    if (page.length < 1000) return all;
  }
}
