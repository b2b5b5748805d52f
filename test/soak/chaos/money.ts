/**
 * The money of a chaos trial: what each task should have cost, by arithmetic of the judge's own from what lies in the bucket, and whether
 * all that the API tells and keeps of it says the same. Amounts are micro-units.
 */
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { openLibsql } from '../../../api/store/libsql.ts';
import { openPostgres } from '../../../api/store/postgres.ts';
import { bucketFolder } from '../../../core/environment.ts';
import type { PresentedTask } from '../../../core/responses.ts';
import { SECOND } from '../../../core/time.ts';
import type { ApiProcess, Scene } from '../../e2e/fault-injection.ts';
import type { Counts, Ledger } from './ledger.ts';
import type { Owner } from './owners.ts';

/** Such that of two tasks hardly any cost the same: a millisecond costs seven micro-units, and a part of one. */
export const PRICES = { PRICE_PER_GPU_SECOND: '0.0071234567', PRICE_PER_STILL: '0.030011' };
const costOfGpu = (ms: number) => Math.ceil((ms * 71_234_567) / 10_000_000);
const STILL = 30_011;

/** The file system's clock may be behind by some milliseconds. */
const COARSE = 20;
/** For deliveries that are still to be tried again. */
const PATIENCE = 60 * SECOND;

/** What GET /usage answers. */
export interface Usage {
  month: string;
  budget: number | null;
  spent: number;
  reserved: number;
  left: number | null;
  open_tasks: number;
  days: { day: string; tasks: number; amount: number; gpu_seconds: number; stills: number }[];
}

interface ShownDelivery {
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

/** What must be true of an account at any time. @returns what is not */
export function wrongOf({ budget, spent, reserved, left, open_tasks }: Usage, owner: Owner): string | undefined {
  const isSound =
    budget === owner.budget &&
    [spent, reserved, open_tasks].every((amount) => Number.isSafeInteger(amount) && amount >= 0) &&
    (budget === null ? left === null : left === budget - spent - reserved && left >= 0);
  if (isSound) return undefined;
  return `${owner.name}: spent ${spent}, reserved ${reserved}, left ${left} of ${budget}, ${open_tasks} active tasks`;
}

export interface AuditorOptions {
  scene: Scene;
  ledger: Ledger;
  owners: Owner[];
  /** the real time, in milliseconds, at one of the fast clock's */
  realTime: (ms: number) => number;
}

export function createAuditor({ scene, ledger, owners, realTime }: AuditorOptions) {
  const { plans, deliveries, find } = ledger;
  const folderOf = (id: string) => join(bucketFolder(scene.dataDir), 'objects', 'tasks', id);

  /** What the GPU worked for the task's result; milliseconds. */
  async function gpuTimeOf({ id, status }: PresentedTask): Promise<number> {
    if (status !== 'succeeded') return 0;
    const { output } = JSON.parse(await readFile(join(folderOf(id), 'result.json'), 'utf8'));
    return output.timings_ms.sampling + output.timings_ms.decoding;
  }

  /** How many pictures of a bridge's may have been counted: one that comes as the task ends may be seen or not. */
  async function stillsOf({ id, status, input, finished_at }: PresentedTask): Promise<number[]> {
    const { prompt, image_index } = input;
    const saved =
      prompt !== undefined && (await stat(join(folderOf(id), `imagine-${image_index}.png`)).catch(() => undefined));
    if (!saved) return [0];
    return status === 'succeeded' || saved.ctimeMs + COARSE < realTime(Date.parse(finished_at!)) ? [1] : [0, 1];
  }

  async function judgeCost(task: PresentedTask): Promise<void> {
    const { id, status, cost } = task;
    const [ms, stills] = await Promise.all([gpuTimeOf(task), stillsOf(task)]);
    const most = costOfGpu(ms); // what was reserved may be less: see `books`
    const ofGpu = cost ? cost.amount - cost.stills * STILL : -1;
    if (cost?.currency !== 'USD' || cost.gpu_seconds !== ms / 1000 || ofGpu < 0 || ofGpu > most)
      find(`${id}, ${status}: ${ms} ms cost at most ${most}, and not ${JSON.stringify(cost)}`);
    else if (!stills.includes(cost.stills)) find(`${id}, ${status}, paid for ${cost.stills} pictures, not ${stills}`);
  }

  /** @returns what the key has spent */
  async function judgeAccount({ url, id: name }: ApiProcess, owner: Owner, tasks: PresentedTask[]): Promise<number> {
    const usage: Usage = await ask(`${url}/usage?since=2000-01-01`, owner);
    const { month, spent, reserved, open_tasks, days } = usage;
    const wrong = wrongOf(usage, owner);
    if (wrong) find(`${name}, at the end: ${wrong}`);
    if (reserved !== 0 || open_tasks !== 0)
      find(`${name}: all tasks of ${owner.name} have ended, and ${reserved} are reserved, ${open_tasks} open`);
    const costs = (of: PresentedTask[]) => sum(of.map(({ cost }) => cost?.amount ?? 0));
    const ofMonth = costs(tasks.filter(({ finished_at }) => finished_at!.startsWith(month)));
    if (spent !== ofMonth) find(`${name}: ${owner.name} has spent ${spent}, and its tasks cost ${ofMonth}`);
    const facts = (of: PresentedTask[]) => ({
      tasks: of.length,
      amount: costs(of),
      gpu_ms: sum(of.map(({ cost }) => Math.round((cost?.gpu_seconds ?? 0) * 1000))),
      stills: sum(of.map(({ cost }) => cost?.stills ?? 0)),
    });
    const told = days.map(({ day, tasks, amount, gpu_seconds, stills }) =>
      JSON.stringify([day, { tasks, amount, gpu_ms: Math.round(gpu_seconds * 1000), stills }]),
    );
    const dayOf = ({ finished_at }: PresentedTask) => finished_at!.slice(0, 10);
    const expected = [...new Set(tasks.map(dayOf))]
      .sort()
      .map((day) => JSON.stringify([day, facts(tasks.filter((task) => dayOf(task) === day))]));
    if (told.join() !== expected.join()) find(`${name} tells ${owner.name} of ${told}; its tasks say ${expected}`);
    return spent;
  }

  /** Waits until nothing is to be announced any more; then each task with a webhook has one delivery, the one that was heard. */
  async function judgeDeliveries(api: ApiProcess, owner: Owner, tasks: PresentedTask[]): Promise<void> {
    const late = Date.now() + PATIENCE;
    let all = await deliveriesOf(api, owner);
    while (all.some(({ status }) => status === 'pending') && Date.now() < late) {
      await delay(100);
      all = await deliveriesOf(api, owner);
    }
    for (const { id, status, type, task_id, status_code, error } of all) {
      if (status !== 'delivered') find(`delivery ${id} of ${task_id} is ${status}: ${status_code ?? error}`);
      const heard = [...(deliveries.get(task_id!)?.ids ?? [])];
      if (heard.join() !== id) find(`${task_id}: delivery ${id}, and heard were ${heard}`);
      const task = tasks.find(({ id }) => id === task_id);
      if (type !== `task.${task?.status}`) find(`delivery ${id} of ${owner.name}’s says ${type} of ${task_id}`);
    }
    for (const { id } of tasks) {
      const count = all.filter(({ task_id }) => task_id === id).length;
      const expected = plans.get(id)!.hook ? 1 : 0;
      if (count !== expected) find(`${id} has ${count} deliveries, and should have ${expected}`);
    }
  }

  return {
    /** By the front door, once all tasks have ended. @returns the accounts by their keys' names */
    async accounts(apis: ApiProcess[], shown: Map<string, PresentedTask>, refused: Counts) {
      const accounts: Record<string, Account> = {};
      for (const task of shown.values()) await judgeCost(task);
      for (const owner of owners) {
        const { name, budget } = owner;
        const tasks = [...shown.values()].filter(({ id }) => plans.get(id)?.owner === owner);
        let spent = 0;
        for (const api of apis) spent = await judgeAccount(api, owner, tasks);
        await judgeDeliveries(apis[0]!, owner, tasks);
        accounts[name] = { budget, spent, tasks: tasks.length, refused: refused[name] ?? 0 };
      }
      return accounts;
    },

    /** The rows themselves, when all processes have ended. */
    async books(databaseUrl: string, shown: Map<string, PresentedTask>): Promise<void> {
      const isFile = databaseUrl.startsWith('file:');
      const { db, close } = await (isFile
        ? openLibsql(databaseUrl, () => 0, true)
        : openPostgres(databaseUrl, () => 0, 30 * SECOND));
      try {
        const lines = await db.selectFrom('ledger').selectAll().execute();
        if (lines.length !== shown.size) find(`the ledger has ${lines.length} lines, of ${shown.size} tasks`);
        for (const { task_id, owner, reserved, settled_at, status, amount, gpu_time, stills } of lines) {
          const task = shown.get(task_id);
          if (!task) continue; // there are too many lines
          const { cost, finished_at, input } = task;
          const most = reserved - (input.prompt === undefined ? 0 : STILL);
          const due = Math.min(most, costOfGpu(gpu_time ?? 0)) + cost!.stills * STILL;
          const is = [owner, status, settled_at, amount, (gpu_time ?? 0) / 1000, stills].join();
          const at = Date.parse(finished_at!);
          const shall = [plans.get(task_id)?.owner.id, task.status, at, due, cost!.gpu_seconds, cost!.stills].join();
          if (is !== shall || due !== cost!.amount)
            find(`${task_id}: the ledger has ${is}, and should ${shall}; it was told ${cost!.amount}`);
        }
        for (const { name, reserved, active_tasks } of await db.selectFrom('keys').selectAll().execute())
          if (reserved !== 0 || active_tasks !== 0)
            find(`the key ${name} has ${reserved} reserved and ${open} active tasks`);
      } finally {
        await close();
      }
    },
  };
}

const ask = async (url: string, { headers }: Owner) => {
  const response = await fetch(url, { headers });
  if (response.status !== 200) throw new Error(`${url} was answered ${response.status}`);
  return response.json();
};

async function deliveriesOf({ url }: ApiProcess, owner: Owner): Promise<ShownDelivery[]> {
  const all: ShownDelivery[] = [];
  for (let cursor = ''; ; cursor = `&cursor=${all.at(-1)!.id}`) {
    const page: ShownDelivery[] = await ask(`${url}/webhooks/deliveries?limit=1000${cursor}`, owner);
    all.push(...page);
    if (page.length < 1000) return all;
  }
}
