/** What must be true when a chaos trial is over and no process works any more. */
import { createHash } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { MAX_JOBS } from '../../../api/tasks/job-transitions.ts';
import { getJson as readJson } from '../../../core/bucket/bucket.ts';
import { type JobOutput, taskFolder } from '../../../core/job.ts';
import type { PresentedTask } from '../../../core/responses.ts';
import type { TestProcess } from '../../e2e/child-process.ts';
import type { ApiProcess } from '../../e2e/harness.ts';
import { getJson } from './money.ts';
import {
  type AcceptedTask,
  type Counts,
  count,
  filesOf,
  formatEnd,
  isEnded,
  keyOf,
  type Owner,
  type Trial,
} from './trial.ts';

/** What a task may keep, however it ended. */
const KEPT = /^(upload|still\.(png|jpg)|imagine\.json|imagine-[1-4]\.png)$/;

/** Every API process presents every accepted task, ended for a reason, with intact files. */
export async function checkTasks(trial: Trial, apis: ApiProcess[]): Promise<void> {
  const { owners, records, addViolation } = trial;
  const listed = new Set<string>();
  const askedAt = performance.now();
  for (const { id: api, url } of apis) {
    const get = (owner: Owner, query = '') => getJson(`${url}/status${query}`, owner);
    for (const owner of owners)
      for (const task of (await get(owner)) as PresentedTask[]) {
        listed.add(task.id);
        trial.seeTask(task, `the list of ${api}`, askedAt);
        const plan = records.get(task.id)?.plan;
        if (!plan) addViolation(`${task.id} is in the list and was not accepted`);
        else if (plan.owner !== owner) addViolation(`${task.id} is in the list of ${owner.name} at ${api}`);
      }
    for (const { id, plan } of trial.accepted()) {
      const task = (await get(plan.owner, `?id=${id}`)) as PresentedTask;
      trial.seeTask(task, api, askedAt);
      if (!isEnded(task)) addViolation(`${id} stays ${task.status}`);
    }
  }
  for (const record of trial.accepted()) {
    if (!listed.has(record.id)) addViolation(`${record.id} was accepted and is not in the list`);
    if (record.end) checkEnd(trial, record, record.end.task);
  }
  for (const task of trial.endedTasks()) await checkFiles(trial, task);
}

/** The end has a reason, at most one payment, and one webhook if one was wanted. */
function checkEnd(trial: Trial, { id, plan, isCancelled, webhooks }: AcceptedTask, task: PresentedTask): void {
  const { kind, hasWebhook } = plan;
  const end = formatEnd(task);
  const forgotten = trial.jobsOf(id).filter(({ unknown }) => unknown).length;
  const dead = trial.deadWorkersOf(id).length;
  const reasons: Record<string, boolean> = {
    succeeded: kind !== 'banned',
    'failed banned_prompt': kind === 'banned',
    canceled: isCancelled,
    'failed lost': forgotten >= MAX_JOBS || (kind !== 'picture' && dead > 0), // killed while the bridge was asked
    'failed out_of_memory': dead >= 3,
  };
  if (!reasons[end]) trial.addViolation(`${id}, a ${kind}, has ${end}: ${task.error?.message}`);
  const paid = trial.harness.paymentsOf(id);
  if (paid > (kind === 'picture' ? 0 : 1)) trial.addViolation(`${id}, a ${kind}, was paid for ${paid} times`);
  const { ids, types } = webhooks;
  if (ids.size !== (hasWebhook ? 1 : 0) || [...types].some((type) => type !== `task.${task.status}`))
    trial.addViolation(`${id}, ${task.status}: webhooks ${[...ids]}, ${[...types]}`);
}

async function checkFiles(trial: Trial, task: PresentedTask): Promise<void> {
  for (const { link, sha256, bytes } of filesOf(task)) {
    const body = new Uint8Array(await (await fetch(link)).arrayBuffer());
    if (body.length !== bytes || createHash('sha256').update(body).digest('hex') !== sha256)
      trial.addViolation(`${task.id}: ${keyOf(link)} differs from its size or hash`);
  }
}

/**
 * No files and processes are left over. To be called when all processes have ended.
 * @returns what killed processes have left that nobody could know of
 */
export async function checkLeftovers(trial: Trial): Promise<Counts> {
  const { harness, records, brokenPosts, addViolation } = trial;
  const left: Counts = {};
  for (const task of trial.endedTasks()) await checkFolder(trial, task, left);
  for (const key of await harness.listObjects('tasks')) {
    const [id = ''] = key.split('/');
    if (key === `${id}/upload` && !records.get(id)?.plan) count(left, 'upload without a task');
    else if (!records.get(id)?.end) addViolation(`${id} is no task, and has ${key}`);
  }
  const uploads = left['upload without a task'] ?? 0;
  if (uploads > brokenPosts /* each may have left one */) addViolation(`${uploads} uploads without a task`);
  for (const name of await harness.leftovers()) addViolation(`${name} is left`);
  for (const process of harness.processes)
    if (!(await isGroupGone(process))) addViolation(`a process of ${process.id} is still alive`);
  return left;
}

/** The folder has the winning job's files. Those of others may only be there if their worker was killed. */
async function checkFolder(trial: Trial, task: PresentedTask, left: Counts): Promise<void> {
  const { harness, addViolation } = trial;
  const { id, status } = task;
  const folder = `${taskFolder(id)}/`;
  const names = await harness.listObjects(taskFolder(id));
  const result = (await readJson(harness.bucket, `${folder}result.json`)) as { output?: JobOutput } | undefined;
  const { videos = [], grid } = result?.output ?? {};
  const keys = [...videos.flatMap(({ key, poster, preview }) => [key, poster, preview]), grid?.key];
  const won = keys.filter((key) => key !== undefined).map((key) => key.slice(folder.length));
  const presented = filesOf(task).map(({ link }) => keyOf(link).slice(folder.length));
  const needed = status === 'succeeded' ? [...presented, 'result.json', 'still.png'] : won;
  for (const name of needed) if (!names.includes(name)) addViolation(`${id}, ${status}, lacks ${name}`);
  const dead = trial.deadWorkersOf(id);
  for (const name of names) {
    if (KEPT.test(name) || name === 'result.json' || won.includes(name)) continue;
    const isHeartbeat = /^attempt-\d\.json$/.test(name) && dead.length > 0;
    const isOfDead = dead.some((worker) => harness.wasGivenTo(worker.id, name.split('/')[0]!));
    if (isHeartbeat || isOfDead) count(left, `${isHeartbeat ? 'heartbeat' : 'file'} of a dead worker, ${status}`);
    else addViolation(`${id}, ${status}: ${name} is left`);
  }
}
/** Whether all processes of an ended process's group are gone, or are so soon: tsx's compiler ends a moment later. */
async function isGroupGone(process: TestProcess): Promise<boolean> {
  for (let tries = 100; process.isGroupAlive(); tries--) {
    if (tries === 0) return false;
    await delay(50);
  }
  return true;
}
