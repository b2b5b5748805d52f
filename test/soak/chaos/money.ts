/**
 * The money of a chaos trial. Each task's cost is computed here independently, from what lies in the bucket, and compared with everything
 * that the API presents and stores. Amounts are micro-units.
 */
import { readFile, stat } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import type * as v from 'valibot';
import { openLibsql } from '../../../api/store/libsql.ts';
import { openPostgres } from '../../../api/store/postgres.ts';
import { imagineKey, taskFolder } from '../../../core/job.ts';
import type { PresentedTask, RESPONSES, Usage } from '../../../core/responses.ts';
import { SECOND } from '../../../core/time.ts';
import type { ApiProcess } from '../../e2e/harness.ts';
import { mayBeAhead } from './clock-jumps.mjs';
import type { Owner, Trial } from './trial.ts';

/** Hardly any two tasks cost the same: a millisecond costs seven micro-units and a fraction. */
export const PRICES = { PRICE_PER_GPU_SECOND: '0.0071234567', PRICE_PER_STILL: '0.030011' };
const costOfGpu = (ms: number) => Math.ceil((ms * 71_234_567) / 10_000_000);
const STILL = 30_011;

/** Milliseconds by which the file system's clock may lag. */
const FILE_CLOCK_LAG = 20;
const DELIVERY_TIMEOUT = 60 * SECOND;

type PresentedDelivery = v.InferOutput<typeof RESPONSES.Delivery>;

const toMs = (seconds: number) => Math.round(seconds * 1000);

/** What is wrong with an account: an amount that is no whole number from 0, or `left` that is not the rest of the budget. */
export function violationOf({ budget, spent, reserved, left, open_tasks }: Usage, owner: Owner): string | undefined {
  const isSound =
    budget === owner.budget &&
    [spent, reserved, open_tasks].every((amount) => Number.isSafeInteger(amount) && amount >= 0) &&
    (budget === null ? left === null : left === budget - spent - reserved && left >= 0);
  if (isSound) return undefined;
  return `${owner.name}: spent ${spent}, reserved ${reserved}, left ${left} of ${budget}, ${open_tasks} active tasks`;
}

/** Costs, accounts and deliveries as the APIs present them, once all tasks have ended. @returns accounts by key name */
export async function checkAccounts(trial: Trial, apis: ApiProcess[]) {
  for (const task of trial.endedTasks()) await checkCost(trial, task);
  const accounts: Record<string, Pick<Owner, 'budget' | 'refused'> & { spent: number; tasks: number }> = {};
  for (const owner of trial.owners) {
    const tasks = trial.endedTasks(owner);
    let spent = 0;
    for (const api of apis) spent = await checkAccount(trial, api, owner, tasks);
    await checkDeliveries(trial, apis[0]!, owner);
    const { name, budget, refused } = owner;
    accounts[name] = { budget, spent, tasks: tasks.length, refused };
  }
  return accounts;
}

async function checkCost(trial: Trial, task: PresentedTask): Promise<void> {
  const { addViolation } = trial;
  const { id, status, cost } = task;
  const [least, longest] = await gpuTimesOf(trial, task);
  const stills = await stillsOf(trial, task);
  const ms = toMs(cost?.gpu_seconds ?? -1);
  const most = costOfGpu(ms); // less if that was not reserved: see `checkLedger`
  const ofGpu = cost ? cost.amount - cost.stills * STILL : -1;
  if (cost?.currency !== 'USD' || ms < least || ms > longest || ofGpu < 0 || ofGpu > most)
    addViolation(`${id}, ${status}: ${least}–${longest} ms cost at most ${most}, and not ${JSON.stringify(cost)}`);
  else if (!stills.includes(cost.stills))
    addViolation(`${id}, ${status}, paid for ${cost.stills} pictures, not ${stills}`);
}

/** The least and most milliseconds that the GPU can have worked for the task. */
async function gpuTimesOf(
  { harness }: Trial,
  { id, status, created_at, finished_at }: PresentedTask,
): Promise<[least: number, most: number]> {
  const [created, finished] = [created_at, finished_at!].map(Date.parse) as [number, number];
  if (status !== 'succeeded') return [0, mayBeAhead(created) ? Infinity : finished - created];
  const { output } = JSON.parse(await readFile(harness.objectPath(`${taskFolder(id)}/result.json`), 'utf8'));
  const ms = output.timings_ms.sampling + output.timings_ms.decoding;
  return [ms, ms];
}

/** How many stills may be charged: one that a bridge accepted while the task ended may count or not. */
async function stillsOf(trial: Trial, { id, status, input, finished_at }: PresentedTask): Promise<number[]> {
  if (input.prompt === undefined) return [0];
  const path = trial.harness.objectPath(imagineKey(id));
  const saved = await stat(path).catch(() => undefined);
  if (!saved) return [0];
  const record = JSON.parse(await readFile(path, 'utf8'));
  if (record.id === undefined) return record.refused.some((refusal: object) => 'id' in refusal) ? [0, 1] : [0];
  const finished = Date.parse(finished_at!);
  const isBefore = !mayBeAhead(finished) && saved.ctimeMs + FILE_CLOCK_LAG < trial.realTime(finished);
  return status === 'succeeded' || isBefore ? [1] : [0, 1];
}

/** @returns what the key has spent */
async function checkAccount(
  trial: Trial,
  { url, id: api }: ApiProcess,
  owner: Owner,
  tasks: PresentedTask[],
): Promise<number> {
  const { addViolation } = trial;
  const usage: Usage = await getJson(`${url}/usage?since=2000-01-01`, owner);
  const { month, spent, reserved, open_tasks, days } = usage;
  const violation = violationOf(usage, owner);
  if (violation) addViolation(`${api}, at the end: ${violation}`);
  if (reserved !== 0 || open_tasks !== 0)
    addViolation(`${api}: all tasks of ${owner.name} have ended; ${reserved} reserved, ${open_tasks} active tasks`);
  const expected: Record<string, number[]> = {};
  for (const { finished_at, cost } of tasks) {
    const day = finished_at!.slice(0, 10);
    const [count = 0, amount = 0, ms = 0, stills = 0] = expected[day] ?? [];
    expected[day] = [count + 1, amount + cost!.amount, ms + toMs(cost!.gpu_seconds), stills + cost!.stills];
  }
  const expectedDays = Object.entries(expected).sort();
  const ofMonth = expectedDays.reduce((sum, [day, [, amount]]) => sum + (day.startsWith(month) ? amount! : 0), 0);
  if (spent !== ofMonth) addViolation(`${api}: ${owner.name} has spent ${spent}, and its tasks cost ${ofMonth}`);
  const presented = days.map(({ day, tasks, amount, gpu_seconds, stills }) => [
    day,
    [tasks, amount, toMs(gpu_seconds), stills],
  ]);
  if (JSON.stringify(presented) !== JSON.stringify(expectedDays))
    addViolation(`${api}, days of ${owner.name}: ${presented.join('; ')}; its tasks have ${expectedDays.join('; ')}`);
  return spent;
}

/** Waits until no delivery is pending. Then each task with a webhook has one delivery, the one that was accepted. */
async function checkDeliveries(trial: Trial, api: ApiProcess, owner: Owner): Promise<void> {
  const { records, addViolation } = trial;
  const deadline = Date.now() + DELIVERY_TIMEOUT;
  let all = await listDeliveries(api, owner);
  while (all.some(({ status }) => status === 'pending') && Date.now() < deadline) {
    await delay(100);
    all = await listDeliveries(api, owner);
  }
  for (const { id, status, type, task_id, status_code, error } of all) {
    if (status !== 'delivered') addViolation(`delivery ${id} of ${task_id} is ${status}: ${status_code ?? error}`);
    const record = records.get(task_id!);
    const received = [...(record?.webhooks.ids ?? [])];
    if (received.join() !== id) addViolation(`${task_id} has delivery ${id}, and ${received} came`);
    if (record?.plan?.owner !== owner || type !== `task.${record.end?.task.status}`)
      addViolation(`delivery ${id} of ${owner.name} says ${type} of ${task_id}`);
  }
  for (const { id, plan } of trial.accepted(owner)) {
    const count = all.filter(({ task_id }) => task_id === id).length;
    const expected = plan.hasWebhook ? 1 : 0;
    if (count !== expected) addViolation(`${id} has ${count} deliveries, and should have ${expected}`);
  }
}

/** The rows in the database, when all processes have ended. */
export async function checkLedger(trial: Trial, databaseUrl: string): Promise<void> {
  const { records, addViolation } = trial;
  const { db, close } = await (databaseUrl.startsWith('file:')
    ? openLibsql(databaseUrl, () => 0, true)
    : openPostgres(databaseUrl, () => 0, 30 * SECOND));
  const rows = await db.selectFrom('ledger').selectAll().execute();
  const keys = await db.selectFrom('keys').selectAll().execute();
  await close();
  const tasks = trial.accepted().length;
  if (rows.length !== tasks) addViolation(`the ledger has ${rows.length} rows, for ${tasks} tasks`);
  for (const { task_id, owner, reserved, settled_at, status, amount, gpu_time, stills } of rows) {
    const { plan, end } = records.get(task_id) ?? {};
    if (!plan || !end) continue; // there are too many rows
    const { task } = end;
    const { cost, finished_at, input } = task;
    const most = reserved - (input.prompt === undefined ? 0 : STILL);
    const due = Math.min(most, costOfGpu(gpu_time ?? 0)) + cost!.stills * STILL;
    const is = [owner, status, settled_at, amount, (gpu_time ?? 0) / 1000, stills].join();
    const expected = [
      plan.owner.id,
      task.status,
      Date.parse(finished_at!),
      due,
      cost!.gpu_seconds,
      cost!.stills,
    ].join();
    if (is !== expected || due !== cost!.amount)
      addViolation(`${task_id}: the ledger has ${is}, not ${expected}; the API presents ${cost!.amount}`);
  }
  for (const { name, reserved, active_tasks, upload_bytes } of keys)
    if (reserved !== 0 || active_tasks !== 0 || upload_bytes !== 0)
      addViolation(
        `the key ${name} has ${reserved} reserved, ${active_tasks} active tasks and ${upload_bytes} bytes of uploads`,
      );
}

/** @throws Error for another status than 200 */
export async function getJson(url: string, { headers }: Owner) {
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
