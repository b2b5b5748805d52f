/**
 * Deaths of workers over one task. A worker that is killed leaves no word, and RunPod gives its job to the next; most likely a task on
 * which worker after worker dies needs more memory than they have.
 *
 * Each attempt takes one of three places in the task's folder, says every half minute that it is alive, and clears its place when the
 * job ends in any way but its worker's death. A place that nobody has spoken for in a while is a death. With the task's result all
 * places are cleared.
 */
import { randomUUID } from 'node:crypto';
import * as v from 'valibot';
import { type Bucket, getJson } from '../core/bucket/bucket.ts';
import { JobError, taskFolder } from '../core/job.ts';
import { SECOND } from '../core/time.ts';

const DEATHS = 3;
const ALIVE_EVERY = 30 * SECOND;
/** Three words missed; the clocks of two workers may differ a little. */
const DEAD_AFTER = 3 * ALIVE_EVERY + 10 * SECOND;

const attemptSchema = v.object({ attempt: v.string(), job: v.string(), alive_at: v.number() });

const PLACES = Array.from({ length: DEATHS }, (_, i) => i + 1);
const placeKey = (taskId: string, place: number) => `${taskFolder(taskId)}/attempt-${place}.json`;

export interface AttemptOptions {
  /** milliseconds since 1970 */
  now?: () => number;
}

/**
 * @returns what ends the attempt
 * @throws JobError: out_of_memory, after the third death
 */
export async function beginAttempt(
  bucket: Bucket,
  taskId: string,
  job: string,
  { now = Date.now }: AttemptOptions = {},
): Promise<() => Promise<void>> {
  const attempt = randomUUID();
  const word = () => JSON.stringify({ attempt, job, alive_at: now() });
  let own: string | undefined;
  let deaths = 0;
  for (const place of PLACES) {
    const key = placeKey(taskId, place);
    if (!own && (await bucket.create(key, word()))) {
      own = key;
      continue;
    }
    const { success, output } = v.safeParse(attemptSchema, await getJson(bucket, key));
    if (success && now() - output.alive_at > DEAD_AFTER) deaths++;
  }
  if (deaths >= DEATHS)
    throw new JobError(
      'out_of_memory',
      `${DEATHS} workers died over this task, most likely for lack of memory: a smaller size, fewer frames or a smaller decoding_t need less`,
    );
  if (!own) return async () => {}; // others are at work on it too
  const key = own;
  let lastWord: Promise<void> = Promise.resolve();
  const timer = setInterval(() => {
    lastWord = bucket.put(key, word()).catch(() => undefined); // the next one will do
  }, ALIVE_EVERY).unref();
  return async () => {
    clearInterval(timer);
    await lastWord; // or it would write the place anew
    await bucket.delete(key);
  };
}

/**
 * Clears the places of a task that has a result: no death counts any more, and whoever is still at it gives up its place again itself.
 * @returns the jobs that had one: they may have left files, and a worker that died just now can't be told from one that lives
 */
export async function clearAttempts(bucket: Bucket, taskId: string): Promise<string[]> {
  const jobs = PLACES.map(async (place) => {
    const key = placeKey(taskId, place);
    const found = await getJson(bucket, key);
    if (found === undefined) return [];
    await bucket.delete(key);
    const { success, output } = v.safeParse(attemptSchema, found);
    return success ? [output.job] : [];
  });
  return (await Promise.all(jobs)).flat();
}
