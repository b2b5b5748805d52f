/**
 * Counts the workers that died on a task. RunPod gives the job of a dead worker to the next one; a task on which worker after worker
 * dies most likely needs more memory than they have.
 *
 * An attempt slot is an object in the task's folder, and there are three:
 *
 *   free   →  taken   an attempt begins
 *   taken  →  free    the job ended, or the task has a result
 *   taken  →  dead    no heartbeat for 100 s; a dead slot stays until the task has a result
 */
import { randomUUID } from 'node:crypto';
import * as v from 'valibot';
import { type Bucket, getJson } from '../core/bucket/bucket.ts';
import { JobError, taskFolder } from '../core/job.ts';
import { SECOND } from '../core/time.ts';

const SLOTS = [1, 2, 3];
const HEARTBEAT_INTERVAL = 30 * SECOND;
/** Three heartbeats missed, plus a margin for the difference between two workers' clocks. */
const DEAD_AFTER = 3 * HEARTBEAT_INTERVAL + 10 * SECOND;

const slotSchema = v.object({ attempt: v.string(), job: v.string(), alive_at: v.number() });
const slotKey = (taskId: string, slot: number) => `${taskFolder(taskId)}/attempt-${slot}.json`;

/**
 * Takes a free slot, if there is one, and writes heartbeats to it.
 * @returns a function that ends the attempt
 * @throws JobError out_of_memory if all slots are dead
 */
export async function beginAttempt(bucket: Bucket, taskId: string, job: string): Promise<() => Promise<void>> {
  const attempt = randomUUID();
  const heartbeat = () => JSON.stringify({ attempt, job, alive_at: Date.now() });
  let own: string | undefined;
  let deaths = 0;
  for (const slot of SLOTS) {
    const key = slotKey(taskId, slot);
    if (!own && (await bucket.create(key, heartbeat()))) {
      own = key;
      continue;
    }
    const { success, output } = v.safeParse(slotSchema, await getJson(bucket, key));
    if (success && Date.now() - output.alive_at > DEAD_AFTER) deaths++;
  }
  if (deaths === SLOTS.length)
    throw new JobError(
      'out_of_memory',
      `${deaths} workers died on this task, most likely for lack of memory; use a smaller size, fewer frames (T) or a smaller decoding_t`,
    );
  if (!own) return async () => {}; // other workers, alive, have the slots
  const key = own;
  let lastWrite: Promise<void> = Promise.resolve();
  const timer = setInterval(() => {
    lastWrite = bucket.put(key, heartbeat()).catch(() => undefined); // the next heartbeat makes up for it
  }, HEARTBEAT_INTERVAL).unref();
  return async () => {
    clearInterval(timer);
    await lastWrite; // or it would create the slot again
    await bucket.delete(key);
  };
}

/**
 * Frees all slots of a task that has a result. A worker that is still running frees its slot itself when it ends.
 * @returns the jobs that had a slot: they may have left files
 */
export async function clearAttempts(bucket: Bucket, taskId: string): Promise<string[]> {
  const jobs = SLOTS.map(async (slot) => {
    const key = slotKey(taskId, slot);
    const found = await getJson(bucket, key);
    if (found === undefined) return [];
    await bucket.delete(key);
    const { success, output } = v.safeParse(slotSchema, found);
    return success ? [output.job] : [];
  });
  return (await Promise.all(jobs)).flat();
}
