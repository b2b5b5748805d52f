/** The step of POST /img2vid that stores a task, or refuses it because of its API key's limits and budget. */
import type { Context } from 'hono';
import { formatCount } from '../../core/format.ts';
import { taskFolder } from '../../core/job.ts';
import { Problem, unavailable } from '../http/problem.ts';
import { setHeader } from '../http/set-header.ts';
import { limitsOf } from '../keys/access.ts';
import { pace, rateHeaders, secondsUntilNext } from '../keys/rate.ts';
import type { Services } from '../services.ts';
import { type Admission, type Key, leftOf, type Refusal, refusalOf, withTask } from '../store/key.ts';
import type { InsertResult, NewTask, Task } from '../store/task.ts';
import { type Estimate, maxCost } from '../tasks/estimate.ts';

export const tooManySubmissions = (perMinute: number, retryAfter = 1) =>
  new Problem('too_many_submissions', `this API key may create at most ${formatCount(perMinute, 'task')} a minute`, {
    headers: { 'retry-after': String(retryAfter) },
  });
export const tooManyActive = (max: number) =>
  new Problem(
    'too_many_open',
    `this API key may have at most ${max} active tasks; wait for one to end, or cancel one`,
    {
      headers: { 'retry-after': '10' },
    },
  );
export const uploadsFull = (megabytes: number) =>
  new Problem(
    'uploads_full',
    `the active tasks of this API key may have at most ${megabytes} MB of uploaded pictures; wait for one to end`,
    { headers: { 'retry-after': '10' } },
  );
/** Amounts are in micro-units. */
export function budgetSpent(amount: number, left: number, budget: number, currency: string): Problem {
  const format = (micro: number) => `${micro / 1e6} ${currency}`;
  const detail = `this task may cost ${format(amount)}; ${format(left)} of this month’s budget of ${format(budget)} is left`;
  return new Problem('budget_spent', detail);
}
export const notStored = (cause?: unknown) => unavailable('the task could not be stored; try again', cause);

/**
 * Refuses what `storeTask` would refuse, so that a picture is neither decoded nor stored for it.
 * @throws Problem 402 or 429
 */
export async function checkAdmission(
  c: Context,
  services: Services,
  upload: Uint8Array | undefined,
  estimate: Estimate,
): Promise<void> {
  const key = (await services.store.getKey(c.get('key').id)) ?? c.get('key');
  const admission = admissionOf(c, services, upload, estimate);
  assertAdmitted(c, services, { key, refused: refusalOf(withTask(key, admission), admission) }, admission, estimate);
}

/**
 * Stores the task and its upload, and sets the rate limit's headers. The upload is recorded before it is written: if this process dies
 * before the task is stored, `createUploadSweeper` deletes it.
 * @returns the existing task, if another request with the same idempotency key was stored first
 * @throws Problem 402 or 429 the key's account or limits refuse it, 503 the store or bucket fails; nothing of the task remains
 */
export async function storeTask(
  c: Context,
  services: Services,
  task: NewTask,
  upload: Uint8Array | undefined,
  estimate: Estimate,
): Promise<Task | undefined> {
  const { bucket, store, now } = services;
  const admission = admissionOf(c, services, upload, estimate);
  let inserted: InsertResult;
  try {
    if (upload) {
      await store.addUpload(task.id, now());
      await bucket.put(task.image_key!, upload);
    }
    inserted = await store.insert(task, admission);
  } catch (cause) {
    // The insert may have succeeded although its confirmation was lost. If the store can't tell, the picture stays.
    const found = await store.getOwn(task.owner, task.id).catch(() => 'unknown');
    if (found === undefined) await deletePicture(c, services, task);
    else if (found !== 'unknown') return undefined;
    throw notStored(cause);
  }
  if (inserted.existing || inserted.refused) await deletePicture(c, services, task);
  if (inserted.existing) return inserted.existing;
  assertAdmitted(c, services, inserted, admission, estimate);
  return undefined;
}

function admissionOf(
  c: Context,
  { config, now }: Services,
  upload: Uint8Array | undefined,
  { quote, expectedGpuTime }: Estimate,
): Admission {
  const { maxActive, uploadsMB, submissions } = limitsOf(c.get('key'), config);
  return {
    amount: maxCost(quote),
    now: now(),
    maxActive: Math.min(maxActive, Number.MAX_SAFE_INTEGER),
    submissions: pace(submissions),
    expectedGpuTime,
    uploadBytes: upload?.length ?? 0,
    maxUploadBytes: uploadsMB * 1e6,
  };
}

/** Sets the rate limit's headers. @throws Problem the key refuses the task */
function assertAdmitted(
  c: Context,
  { config }: Services,
  { key, refused }: { key: Key; refused?: Refusal | undefined },
  { amount, now }: Admission,
  { quote: { currency } }: Estimate,
): void {
  const { maxActive, uploadsMB, submissions } = limitsOf(key, config);
  for (const [name, value] of Object.entries(rateHeaders('submissions', key.submissions_at, now, submissions)))
    setHeader(c, name, value);
  if (refused === 'rate') throw tooManySubmissions(submissions, secondsUntilNext(key.submissions_at, now, submissions));
  if (refused === 'active') throw tooManyActive(maxActive);
  if (refused === 'budget') throw budgetSpent(amount, leftOf(key, now)!, key.budget!, currency);
  if (refused === 'uploads') throw uploadsFull(uploadsMB);
}

async function deletePicture(c: Context, { bucket, store }: Services, { id, image_key }: NewTask): Promise<void> {
  if (!image_key) return;
  try {
    await bucket.delete(taskFolder(id));
    await store.removeUpload(id);
  } catch (error) {
    c.get('log').warn({ task: id, error }, 'an unused picture could not be deleted; will be retried');
  }
}
