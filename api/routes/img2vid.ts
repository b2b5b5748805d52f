import { randomBytes, randomInt } from 'node:crypto';
import { type Context, Hono } from 'hono';
import * as v from 'valibot';
import { JobError, taskFolder } from '../../core/job.ts';
import type { Request } from '../../core/parameters.ts';
import { checkPicture } from '../../core/picture/picture.ts';
import { createRequestParser, InvalidRequest } from '../../core/request.ts';
import { isActive } from '../../core/responses.ts';
import { SECOND } from '../../core/time.ts';
import { urlErrors } from '../http/check-urls.ts';
import { checkSame, type Idempotency, NO_KEY, readIdempotency } from '../http/idempotency.ts';
import { waitOf } from '../http/prefer.ts';
import { Problem } from '../http/problem.ts';
import { invalid, readBody } from '../http/read-body.ts';
import { readQuery } from '../http/read-query.ts';
import { limitsOf } from '../keys/access.ts';
import { pace, rateHeaders, secondsUntilNext } from '../keys/rate.ts';
import type { Services } from '../services.ts';
import { type Admission, type Key, monthOf } from '../store/key.ts';
import { INITIAL_STATE, type InsertResult, type ListedTask, type NewTask, type Task } from '../store/task.ts';
import { type Estimate, maxCost, presentEstimate } from '../tasks/estimate.ts';
import { follow } from '../tasks/follow.ts';
import { createTaskIds } from '../tasks/id.ts';
import { presentTask } from '../tasks/present.ts';

const GONE =
  'this receiver has answered 410 and hears nothing more, until a delivery to it is replayed or a test is sent';

const TRUE = ['1', 'true'];
export const DRY_RUN = [...TRUE, '0', 'false'];
const QUERY = v.object({
  /** whether a request is checked, and no more */
  dry_run: v.pipe(
    v.optional(v.picklist(DRY_RUN, `must be one of ${DRY_RUN.join(', ')}`), '0'),
    v.transform((text) => TRUE.includes(text)),
  ),
});

/** POST /img2vid: a checked request becomes a stored task, or with ?dry_run=1 an account of what it would be. */
export function img2vid(services: Services) {
  const { config, store, bucket, lifecycle, estimate, stopping, now } = services;
  const nextId = createTaskIds(now);
  const read = createRequestParser(config);

  return new Hono().post('/img2vid', async (c) => {
    const owner = c.get('key').id;
    const { dry_run: isTrial } = readQuery(c, QUERY, 'unknown in the query: parameters belong in the body');
    const { values, image } = await readBody(c);
    const { input, warnings, request } = check(values, image !== undefined);
    const once = isTrial ? NO_KEY : readIdempotency(c, request, image);
    const { idempotency_key: key } = once;
    const earlier = key === null ? undefined : await store.findByIdempotencyKey(owner, key, now());
    if (earlier) return replay(c, earlier, once);
    const source_key =
      input.still_of === undefined ? null : await earlierPicture(owner, input.still_of, input.image_index, request);
    const usesImage = input.prompt === undefined && input.image_url === undefined && image !== undefined;
    if (image) await checkImage(image); // also one that is not used: the caller should know that it is broken
    if (input.webhook_url !== undefined && (await isGone(c, owner, input.webhook_url)))
      warnings.push({ field: 'webhook_url', message: GONE });
    const estimated = await estimate(input);
    if (isTrial) return c.json({ input, warnings, cost_estimate: presentEstimate(estimated) });

    const { id, created_at } = nextId();
    const image_key = usesImage ? `${taskFolder(id)}/upload` : null;
    const task: NewTask = {
      ...INITIAL_STATE,
      id,
      owner,
      ...once,
      created_at,
      model: config.model,
      input,
      warnings,
      image_key,
      source_key,
      quote: estimated.quote,
      callback_token: randomBytes(24).toString('base64url'),
    };
    const sooner = await keep(c, task, image, estimated);
    if (sooner) return replay(c, sooner, once); // the same request came at the same time
    c.get('log').info({ task: id }, 'task created');
    lifecycle.dispatch();
    return answer(c, task);
  });

  /** For a warning only: where the store is away the post is answered all the same, if by then it is back. */
  function isGone(c: Context, owner: string, url: string): Promise<boolean> {
    return store.isWebhookDisabled(owner, url).catch((error) => {
      c.get('log').warn({ error }, 'whether a receiver is gone could not be read');
      return false;
    });
  }

  function replay(c: Context, earlier: Task, once: Idempotency) {
    checkSame(earlier, once);
    c.header('idempotency-replayed', 'true');
    return answer(c, earlier);
  }

  /** At once, or when the task has ended, if that is within the time that the caller would wait. */
  async function answer(c: Context, task: Task | NewTask) {
    const seconds = waitOf(c.req.header('prefer'));
    if (seconds !== undefined) c.header('preference-applied', `wait=${seconds}`);
    const latest = seconds === undefined ? task : await ended(c, task, seconds);
    const shown = await presentTask(latest, { bucket, linkSeconds: config.linkSeconds, now });
    const status = seconds === undefined || isActive(latest.status) ? 202 : 200;
    return c.json(shown, status, { location: `/status?id=${task.id}` });
  }

  /** The task when it has ended, or as it is when the time is over or the caller has gone. */
  async function ended(c: Context, task: Task | NewTask, seconds: number): Promise<ListedTask> {
    const over = new AbortController();
    const timer = setTimeout(() => over.abort(), seconds * SECOND);
    const readAgain = () => store.getOwn(task.owner, task.id);
    let latest: ListedTask = task;
    try {
      const followed = follow(task.owner, (await readAgain())!, services, [over.signal, c.req.raw.signal, stopping]);
      for await (const changed of followed) latest = changed ?? latest;
      if (isActive(latest.status)) latest = (await readAgain()) ?? latest; // what another process did a moment ago is told a moment later
    } catch (error) {
      c.get('log').warn({ task: task.id, error }, 'a caller’s wait broke off'); // the task is stored, and that is what is to be answered
    } finally {
      clearTimeout(timer);
    }
    return latest;
  }

  /**
   * Stores the task and its picture.
   * @returns the task that has its idempotency key, where another was sooner
   * @throws Problem 402 or 429 the key's account or limits refuse it, 503; and nothing is left of it
   */
  async function keep(
    c: Context,
    task: NewTask,
    image: Uint8Array | undefined,
    { quote, expectedGpuTime }: Estimate,
  ): Promise<Task | undefined> {
    const { maxActive, submissions } = limitsOf(c.get('key'), config);
    const at = now();
    const order = {
      amount: maxCost(quote),
      now: at,
      maxActive: Math.min(maxActive, Number.MAX_SAFE_INTEGER),
      submissions: pace(submissions),
      expectedGpuTime,
    };
    let inserted: InsertResult;
    try {
      if (task.image_key) await bucket.put(task.image_key, image!);
      inserted = await store.insert(task, order);
    } catch (cause) {
      // It may be the store's word that was lost, and the task is there. Where it can't be asked, the picture stays in case it is.
      const found = await store.getOwn(task.owner, task.id).catch(() => 'unknown');
      if (found === undefined) await forgetPicture(c, task);
      else if (found !== 'unknown') return undefined;
      throw new Problem(503, 'unavailable', 'the task could not be stored; try again', {
        headers: { 'retry-after': '5' },
        cause,
      });
    }
    if (inserted.existing || inserted.refused) await forgetPicture(c, task);
    if (inserted.existing) return inserted.existing;
    const { key, refused } = inserted;
    for (const [name, value] of Object.entries(rateHeaders('submissions', key.submissions_at, at, submissions)))
      c.header(name, value);
    if (refused === 'rate')
      throw tooMany('too_many_submissions', `tasks a minute with this API key: at most ${submissions.perMinute}`, {
        'retry-after': String(secondsUntilNext(key.submissions_at, at, submissions)),
      });
    if (refused === 'active')
      throw tooMany('too_many_open', `open tasks with this API key: at most ${maxActive}; wait for one to end`, {
        'retry-after': '10',
      });
    if (refused === 'budget') throw new Problem(402, 'budget_spent', spent(key, order, quote.currency));
    return undefined;
  }

  async function forgetPicture(c: Context, { id, image_key }: NewTask): Promise<void> {
    if (!image_key) return;
    await bucket
      .delete(taskFolder(id))
      .catch((error) => c.get('log').warn({ task: id, error }, 'a picture that nobody needs stays'));
  }

  function check(values: Record<string, unknown>, hasImage: boolean) {
    try {
      const checked = read(values, { hasImage, seed: randomInt(0, 1e9 + 1) });
      const errors = urlErrors(checked.input, config);
      if (errors.length > 0) invalid(errors);
      if (checked.input.prompt !== undefined && config.bridge === 'none')
        invalid([{ field: 'prompt', message: 'there is no Midjourney bridge here; send a picture' }], 'no_bridge');
      return checked;
    } catch (error) {
      if (error instanceof InvalidRequest) invalid(error.errors);
      throw error;
    }
  }

  /** The picture of an earlier task that is to be animated again; one answer for every reason why not. */
  async function earlierPicture(owner: string, id: string, index: number, request: Request): Promise<string> {
    const folder = taskFolder(id);
    if (await store.getOwn(owner, id)) {
      const oneOfFour = `${folder}/imagine-${index}.png`;
      if (await bucket.has(oneOfFour)) return oneOfFour;
      const only = `${folder}/still.png`; // of a task that began with a picture
      if (request.image_index === undefined && (await bucket.has(only))) return only;
    }
    return invalid([{ field: 'still_of', message: 'must be the id of an earlier task whose pictures are kept' }]);
  }
}

const tooMany = (code: 'too_many_submissions' | 'too_many_open', detail: string, headers: Record<string, string>) =>
  new Problem(429, code, detail, { headers });

function spent(key: Key, { amount, now }: Admission, currency: string): string {
  const units = (micro: number) => `${micro / 1e6} ${currency}`;
  const left = Math.max(0, key.budget! - key.reserved - (key.month === monthOf(now) ? key.spent : 0));
  return `this task may cost ${units(amount)}; ${units(left)} of this month’s budget of ${units(key.budget!)} are left`;
}

async function checkImage(image: Uint8Array) {
  try {
    await checkPicture(image);
  } catch (error) {
    if (error instanceof JobError) invalid([{ field: 'image', message: error.message }], 'image_rejected');
    throw error;
  }
}
