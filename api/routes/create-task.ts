/** Makes a checked request a task: what every way to create one shares. */
import { randomBytes, randomInt } from 'node:crypto';
import type { Context } from 'hono';
import { isSized, PNG_HEADER, pngSize, withSize } from '../../core/frame-size.ts';
import { JobError, taskFolder } from '../../core/job.ts';
import type { Request } from '../../core/parameters.ts';
import { checkPicture } from '../../core/picture/picture.ts';
import { parseRequest } from '../../core/request.ts';
import { QueueFullError } from '../../core/slots.ts';
import { urlErrors } from '../http/check-urls.ts';
import { conflict, type Idempotency, readIdempotency } from '../http/idempotency.ts';
import { ClientDisconnected, invalidInput, unavailable } from '../http/problem.ts';
import type { Body } from '../http/read-body.ts';
import { setHeader } from '../http/set-header.ts';
import { noLongerValid } from '../keys/access.ts';
import type { Services } from '../services.ts';
import { INITIAL_STATE, type NewTask, type Task } from '../store/task.ts';
import { presentEstimate } from '../tasks/estimate.ts';
import { checkAdmission, storeTask } from './store-task.ts';

const DISABLED = 'disabled, because this URL has responded 410; to enable it, replay a delivery or send a test';

/**
 * Stores a task, unless an earlier request with the same idempotency key has done so.
 * @returns the task
 * @throws Problem each that POST /img2vid documents. Then nothing is stored
 * @throws InvalidRequest
 * @throws ClientDisconnected
 */
export async function createTask(c: Context, services: Services, body: Body): Promise<NewTask> {
  const { config, store, lifecycle, now } = services;
  const owner = c.get('key').id;
  if (!(await c.get('isAdmitted')())) throw noLongerValid(); // the body may have taken minutes
  const parsed = parse(services, body);
  const idempotency = readIdempotency(c, parsed.request, body.image);
  const { idempotency_key: key } = idempotency;
  const existing = key === null ? undefined : await store.findByIdempotencyKey(owner, key, now());
  if (existing) return replay(c, existing, idempotency);
  const { input, warnings, upload, source_key, estimated } = await complete(c, services, body, parsed, {
    isDryRun: false,
  });

  const { id, created_at } = services.nextTaskId();
  const task: NewTask = {
    ...INITIAL_STATE,
    id,
    owner,
    ...idempotency,
    created_at,
    model: config.model,
    input,
    warnings,
    metadata: parsed.request.metadata ?? null,
    image_key: upload ? `${taskFolder(id)}/upload` : null,
    source_key,
    quote: estimated.quote,
    callback_token: randomBytes(24).toString('base64url'),
    share_secret: randomBytes(32).toString('base64url'),
  };
  const simultaneous = await storeTask(c, services, task, upload, estimated);
  if (simultaneous) return replay(c, simultaneous, idempotency);
  c.get('log').info({ task: id }, 'task created');
  lifecycle.dispatch();
  return task;
}

/** Checks a request as `createTask` does, and stores nothing. @returns the task's input and highest cost */
export async function quoteTask(c: Context, services: Services, body: Body) {
  const checked = await complete(c, services, body, parse(services, body), { isDryRun: true });
  const { input, warnings, estimated } = checked;
  return { input, warnings, cost_estimate: presentEstimate(estimated) };
}

function parse({ config }: Services, { values, image }: Body) {
  const seed = randomInt(0, 1e9 + 1);
  const parsed = parseRequest(values, { ...config, hasImage: image !== undefined, seed });
  const errors = urlErrors(parsed.input, config);
  if (errors.length > 0) throw invalidInput(errors);
  if (parsed.input.prompt !== undefined && config.bridge === 'none') throw noBridge();
  return parsed;
}

/** Checks the picture and the admission of the API key, and resolves what depends on the picture. */
async function complete(
  c: Context,
  services: Services,
  { image, imageName, imageField, warnings: translated = [] }: Body,
  { input: unsized, warnings: own, request }: ReturnType<typeof parse>,
  { isDryRun }: { isDryRun: boolean },
) {
  const { config, estimate } = services;
  const owner = c.get('key').id;
  const warnings = [...translated, ...own];
  const still =
    unsized.still_of === undefined ? undefined : await findStill(services, owner, unsized.still_of, request);
  if (still) unsized.image_index = still.index;
  const upload = unsized.prompt === undefined && unsized.image_url === undefined ? image : undefined;
  if (upload && imageName !== undefined) unsized.image = imageName;
  const estimated = await estimate(unsized); // before the size is known: it is the same for every picture
  let picture = still?.size;
  if (image) {
    if (!isDryRun) await checkAdmission(c, services, upload, estimated);
    const size = await checkImage(c, image, imageField); // an unused one, too: the client should learn that it is broken
    if (upload) picture = size;
  }
  const input =
    isSized(unsized) || !picture ? unsized : withSize(unsized, picture.width / picture.height, config.model);
  if (input.webhook_url !== undefined && (await isDisabled(c, services, input.webhook_url)))
    warnings.push({ field: 'webhook_url', message: DISABLED });
  return { input, warnings, upload, source_key: still?.key ?? null, estimated };
}

/**
 * Without `image_index`, or with the earlier task's, the still is that of the earlier task, or the picture that would have become it.
 * @returns the bucket key of the picture, its index among four, and its size; without one, the worker finds out what it is
 * @throws Problem 422: the earlier task has fewer pictures, or none; the same for every other reason
 */
async function findStill({ store, bucket }: Services, owner: string, id: string, { image_index }: Request) {
  const earlier = await store.getOwn(owner, id);
  const own = earlier?.input.image_index ?? 1;
  const index = image_index ?? own;
  const names = [...(index === own ? ['still'] : []), `imagine-${index}`];
  for (const key of names.map((name) => `${taskFolder(id)}/${name}.png`)) {
    const header = earlier && (await bucket.get(key, PNG_HEADER));
    if (header) return { key, index, size: pngSize(header) };
  }
  if (earlier && index > 1 && (await bucket.has(`${taskFolder(id)}/imagine-1.png`)))
    throw invalidInput([{ field: 'image_index', message: `must be lower: the earlier task has no picture ${index}` }]);
  throw invalidInput([{ field: 'still_of', message: 'must be the id of an earlier task whose pictures are kept' }]);
}

/**
 * @returns the picture's size
 * @throws Problem 422 the picture is refused, 503 it can't be checked now
 * @throws ClientDisconnected
 */
async function checkImage(c: Context, image: Uint8Array, field: Body['imageField']) {
  const { signal } = c.req.raw;
  try {
    return await checkPicture(image, signal, c.get('key').id);
  } catch (error) {
    if (signal.aborted) throw new ClientDisconnected({ cause: error });
    if (error instanceof JobError) throw imageRejected(error.message, field);
    throw error instanceof QueueFullError ? tooManyPictures() : pictureNotChecked(error);
  }
}

/** Whether the webhook URL is disabled. It matters only for a warning, so an error of the store counts as no. */
function isDisabled(c: Context, { store }: Pick<Services, 'store'>, url: string): Promise<boolean> {
  return store.isWebhookDisabled(c.get('key').id, url).catch((error) => {
    c.get('log').warn({ error }, 'could not read whether a webhook URL is disabled');
    return false;
  });
}

/** The task that an earlier request created. @throws Problem 409 that request was another one */
function replay(c: Context, existing: Task, idempotency: Idempotency): Task {
  if (existing.idempotency_hash !== idempotency.idempotency_hash) throw conflict(existing);
  setHeader(c, 'idempotency-replayed', 'true');
  return existing;
}

export const noBridge = () =>
  invalidInput(
    [
      {
        field: 'prompt',
        message: 'this service has no image provider; send a picture, image_url or still_of instead',
      },
    ],
    'no_bridge',
  );
export const tooManyPictures = () => unavailable('too many pictures are being checked; try again');
const pictureNotChecked = (cause: unknown) => unavailable('the picture could not be checked; try again', cause);
export const imageRejected = (message: string, field: Body['imageField'] = 'image') =>
  invalidInput([{ field, message }], 'image_rejected');
