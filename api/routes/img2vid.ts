import { randomBytes, randomInt } from 'node:crypto';
import { type Context, Hono } from 'hono';
import * as v from 'valibot';
import { JobError, taskFolder } from '../../handler/job.ts';
import { ALLOWED_HOSTS, isPublicHost } from '../../handler/net/guard.ts';
import type { Input, Request } from '../../handler/parameters.ts';
import { InvalidRequest, readRequest } from '../../handler/request.ts';
import { checkPicture } from '../../handler/still/picture.ts';
import { checkSame, type Idempotency, NO_KEY, readIdempotency } from '../idempotency.ts';
import { ownerOf } from '../owner.ts';
import { waitOf } from '../prefer.ts';
import { Problem } from '../problem.ts';
import { invalid, readBody } from '../read-body.ts';
import { readQuery } from '../read-query.ts';
import type { Services } from '../services.ts';
import { FRESH, isOpen, type NewTask, type Task } from '../store/task.ts';
import { costEstimate } from '../tasks/estimate.ts';
import { follow } from '../tasks/follow.ts';
import { taskIds } from '../tasks/id.ts';
import { present } from '../tasks/present.ts';

const SECOND = 1000;

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
  const { config, store, bucket, lifecycle, stopping, now } = services;
  const nextId = taskIds(now);

  return new Hono().post('/img2vid', async (c) => {
    const owner = ownerOf(c);
    const { dry_run: isTrial } = readQuery(c, QUERY, 'unknown in the query: parameters belong in the body');
    const { values, image } = await readBody(c);
    const { input, warnings, request } = check(values, image !== undefined);
    const once = isTrial ? NO_KEY : readIdempotency(c, request, image);
    const { idempotency_key: key } = once;
    const earlier = key === null ? undefined : await store.byIdempotencyKey(owner, key, now());
    if (earlier) return replay(c, earlier, once);
    const source_key =
      input.still_of === undefined ? null : await earlierPicture(owner, input.still_of, input.image_index, request);
    const usesImage = input.prompt === undefined && input.image_url === undefined && image !== undefined;
    if (image) await checkImage(image); // also one that is not used: the caller should know that it is broken
    if (isTrial) return c.json({ input, warnings, cost_estimate: costEstimate(input, config.prices) });

    const { id, created_at } = nextId();
    const image_key = usesImage ? `${taskFolder(id)}/upload` : null;
    const task: NewTask = {
      ...FRESH,
      id,
      owner,
      ...once,
      created_at,
      model: config.model,
      input,
      warnings,
      image_key,
      source_key,
      callback_token: randomBytes(24).toString('base64url'),
    };
    const sooner = await keep(c, task, image);
    if (sooner) return replay(c, sooner, once); // the same request came at the same time
    c.get('log').info({ task: id }, 'task created');
    lifecycle.dispatch();
    return answer(c, task);
  });

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
    const shown = await present(latest, { bucket, linkSeconds: config.linkSeconds, now });
    const status = seconds === undefined || isOpen(latest.status) ? 202 : 200;
    return c.json(shown, status, { location: `/status?id=${task.id}` });
  }

  /** The task when it has ended, or as it is when the time is over or the caller has gone. */
  async function ended(c: Context, task: Task | NewTask, seconds: number): Promise<Task | NewTask> {
    const over = new AbortController();
    const timer = setTimeout(() => over.abort(), seconds * SECOND);
    const read = () => store.getOwn(task.owner, task.id);
    let latest = task;
    try {
      const followed = follow((await read())!, services, [over.signal, c.req.raw.signal, stopping]);
      for await (const changed of followed) latest = changed ?? latest;
      if (isOpen(latest.status)) latest = (await read()) ?? latest; // what another process did a moment ago is told a moment later
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
   * @throws Problem 503, and nothing is left of it
   */
  async function keep(c: Context, task: NewTask, image: Uint8Array | undefined): Promise<Task | undefined> {
    try {
      if (task.image_key) await bucket.put(task.image_key, image!);
      const sooner = await store.insert(task);
      if (sooner) await forgetPicture(c, task);
      return sooner;
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
  }

  async function forgetPicture(c: Context, { id, image_key }: NewTask): Promise<void> {
    if (!image_key) return;
    await bucket
      .delete(taskFolder(id))
      .catch((error) => c.get('log').warn({ task: id, error }, 'a picture that nobody needs stays'));
  }

  function check(values: Record<string, unknown>, hasImage: boolean) {
    try {
      const context = { limits: config.limits, model: config.model, hasImage, seed: randomInt(0, 1e9 + 1) };
      const checked = readRequest(values, context);
      checkAddresses(checked.input);
      return checked;
    } catch (error) {
      if (error instanceof InvalidRequest) invalid(error.errors);
      throw error;
    }
  }

  /** What can be said of addresses now; where names lead is checked when they are used. */
  function checkAddresses({ image_url, webhook_url }: Input) {
    if (config.allowPrivateUrls) return;
    const errors = Object.entries({ image_url, webhook_url })
      .filter(([, url]) => url !== undefined && !isPublicHost(new URL(url)))
      .map(([field]) => ({ field, message: `must lead to ${ALLOWED_HOSTS}` }));
    if (webhook_url?.toLowerCase().startsWith('http:'))
      errors.push({ field: 'webhook_url', message: 'must be an https URL' });
    if (errors.length > 0) invalid(errors);
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

async function checkImage(image: Uint8Array) {
  try {
    await checkPicture(image);
  } catch (error) {
    if (error instanceof JobError) invalid([{ field: 'image', message: error.message }], error.code);
    throw error;
  }
}
