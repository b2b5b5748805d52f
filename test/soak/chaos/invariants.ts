/** What must be true when a chaos trial is over and all is quiet. */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { MAX_JOBS } from '../../../api/tasks/transition.ts';
import { bucketFolder } from '../../../core/environment.ts';
import type { PresentedTask } from '../../../core/responses.ts';
import type { ApiProcess, Job, Process, Scene } from '../../e2e/fault-injection.ts';
import { type Counts, count, filesOf, howEnded, isEnded, keyOf, type Ledger, type Plan } from './ledger.ts';
import type { Owner } from './owners.ts';

/** What a task may keep, whatever became of it. */
const KEPT = /^(upload|still\.png|imagine\.json|imagine-[1-4]\.png)$/;

export function createJudge(scene: Scene, ledger: Ledger, owners: Owner[]) {
  const { plans, cancelled, killed, deliveries, ofTask, see, find } = ledger;

  /** Workers that were killed and had been given a job of the task. */
  const deadOver = (id: string) =>
    scene.workers.filter(
      (worker) => killed.has(worker) && ofTask(id).some(({ job }) => scene.wasGiven(worker.id, job)),
    );

  /** Whether there was a reason for this end. */
  function judgeEnd(task: PresentedTask, { kind, hook }: Plan): void {
    const { id, status } = task;
    const how = howEnded(task);
    const unknown = ofTask(id).filter(({ unknown }) => unknown).length;
    const reasons: Record<string, boolean> = {
      succeeded: kind !== 'banned',
      'failed banned_prompt': kind === 'banned',
      canceled: cancelled.has(id),
      'failed lost': unknown >= MAX_JOBS || (kind !== 'picture' && deadOver(id).length > 0), // killed while the bridge was asked
      'failed out_of_memory': deadOver(id).length >= 3,
    };
    if (!reasons[how]) find(`${id}, a ${kind}, has ${how}: ${task.error?.message}`);
    const paid = scene.imagines({ taskId: id } as Job);
    if (paid > (kind === 'picture' ? 0 : 1)) find(`${id}, a ${kind}, was paid for ${paid} times`);
    const { ids = new Set(), types = new Set() } = deliveries.get(id) ?? {};
    if (ids.size !== (hook ? 1 : 0) || [...types].some((type) => type !== `task.${status}`))
      find(`${id}, ${status}: webhooks ${[...ids]}, ${[...types]}`);
  }

  async function judgeVideos(task: PresentedTask): Promise<void> {
    for (const { link, sha256, bytes } of filesOf(task)) {
      const body = new Uint8Array(await (await fetch(link)).arrayBuffer());
      if (body.length !== bytes || createHash('sha256').update(body).digest('hex') !== sha256)
        find(`${task.id}: ${keyOf(link)} is not what was told`);
    }
  }

  /** The files of each task, by its id. */
  async function filesInBucket(root: string): Promise<Map<string, string[]>> {
    const files = new Map<string, string[]>();
    for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue;
      const path = join(entry.parentPath, entry.name).slice(root.length + 1);
      const id = path.split('/')[0]!;
      files.set(id, [...(files.get(id) ?? []), path.slice(id.length + 1)]);
    }
    return files;
  }

  return {
    /** Asks every API process for every task, and for every key's list. @returns them all */
    async tasks(apis: ApiProcess[]): Promise<Map<string, PresentedTask>> {
      const all = new Map<string, PresentedTask>();
      const asked = performance.now();
      for (const { id: name, url } of apis) {
        const lists = owners.map(async (owner) => {
          const list = (await (await fetch(`${url}/status`, { headers: owner.headers })).json()) as PresentedTask[];
          for (const { id } of list)
            if (plans.get(id)?.owner !== owner) find(`${id} is in the list of ${owner.name} at ${name}`);
          return list;
        });
        const each = [...plans].map(
          async ([id, { owner }]) =>
            (await fetch(`${url}/status?id=${id}`, { headers: owner.headers })).json() as Promise<PresentedTask>,
        );
        const listed = (await Promise.all(lists)).flat();
        for (const task of [...listed, ...(await Promise.all(each))]) {
          see(task, name, asked);
          if (!isEnded(task)) find(`${task.id} is ${task.status} for ever`);
        }
        for (const task of listed) all.set(task.id, task);
      }
      for (const [id, plan] of plans) {
        const task = all.get(id);
        if (task) judgeEnd(task, plan);
        else find(`${id} was accepted and is not in the list`);
      }
      for (const task of all.values()) await judgeVideos(task);
      return all;
    },

    /**
     * Looks for litter, when all processes have ended.
     * @param broken posts that broke off: each may have left an upload
     * @returns what killed processes have left of which nobody could know
     */
    async litter(all: Map<string, PresentedTask>, broken: number): Promise<Counts> {
      const left: Counts = {};
      const root = join(bucketFolder(scene.dataDir), 'objects', 'tasks');
      const files = await filesInBucket(root);
      for (const [id, names] of files) {
        const task = all.get(id);
        if (task) await judgeFolder(task, names);
        else if (names.join() === 'upload') count(left, 'upload without a task');
        else find(`${id} is no task, and has ${names}`);
      }
      for (const [id, task] of all) if (task.status === 'succeeded' && !files.has(id)) find(`${id} has no files`);
      if ((left['upload without a task'] ?? 0) > broken)
        find(`${left['upload without a task']} uploads without a task`);
      for (const name of await scene.litter()) find(`${name} is left`);
      for (const process of scene.processes) if (!(await isGone(process))) find(`a process of ${process.id} lives on`);
      return left;

      /** The winner's files and nothing of other jobs, but of a job that nobody got again after its worker had been killed. */
      async function judgeFolder(task: PresentedTask, names: string[]): Promise<void> {
        const folder = `tasks/${task.id}/`;
        const result =
          names.includes('result.json') && JSON.parse(await readFile(join(root, task.id, 'result.json'), 'utf8'));
        const { videos = [], grid } = (result?.output ?? {}) as { videos?: { key: string }[]; grid?: { key: string } };
        const won = [...videos, ...(grid ? [grid] : [])].map(({ key }) => key.slice(folder.length));
        const told = filesOf(task).map(({ link }) => keyOf(link).slice(folder.length));
        const needed = task.status === 'succeeded' ? [...told, 'result.json', 'still.png'] : won;
        for (const name of needed) if (!names.includes(name)) find(`${task.id}, ${task.status}, lacks ${name}`);
        for (const name of names) {
          if (KEPT.test(name) || name === 'result.json' || won.includes(name)) continue;
          const job = name.split('/')[0]!;
          const isWord = /^attempt-\d\.json$/.test(name) && deadOver(task.id).length > 0;
          const isOfDead = deadOver(task.id).some(({ id }) => scene.wasGiven(id, job));
          if (isWord || isOfDead) count(left, `${isWord ? 'word' : 'file'} of a dead worker, ${task.status}`);
          else find(`${task.id}, ${task.status}: ${name} is left`);
        }
      }
    },
  };
}

/** Whether the whole group of a process that has ended is gone, if not at once (tsx's compiler ends a moment later). */
async function isGone(process: Process): Promise<boolean> {
  for (let tries = 100; process.hasRemains(); tries--) {
    if (tries === 0) return false;
    await delay(50);
  }
  return true;
}
