/**
 * A prompt becomes four pictures in the task's folder, paid for once.
 *
 * imagine.json is the memory of that payment, written before and after each step:
 *
 *   nothing ──▶ intent ──────────────▶ taken ──▶ the pictures
 *      ▲        a bridge is, or was     │  its id: whoever finds it waits for that imagine at that bridge
 *      │        about to be, asked      │
 *      └─────── refused ◀───────────────┘ the imagine failed, for good
 *
 * A refusal costs nothing: the next bridge of the list is asked, if it may do better, and none is asked twice. An intent that stays
 * without an id (its worker died, or the bridge did not answer) may have been paid: it is looked up by our ref where the bridge can, else
 * the task ends with `lost`. Nothing else leads to a second payment. Each asking is claimed by creating a file, so that of two workers on
 * one task only one asks, and the other waits for what comes of it.
 */
import { setTimeout as delay } from 'node:timers/promises';
import sharp from 'sharp';
import * as v from 'valibot';
import { type Bucket, getJson, StorageError } from '../../../core/bucket/bucket.ts';
import { deadline } from '../../../core/deadline.ts';
import { ERROR_CODES, type ErrorCode, JobError, taskFolder } from '../../../core/job.ts';
import type { Log } from '../../../core/log.ts';
import { toBridgePrompt } from '../../../core/midjourney-prompt.ts';
import { toPng } from '../../../core/picture/picture.ts';
import { SECOND } from '../../../core/time.ts';
import { BRIDGE_ERRORS, type Bridge, type ImagineState } from './bridge.ts';
import { CALL_TIMEOUT, getRetryAfter } from './bridge-call.ts';

/** A bridge that asks to slow down has taken nothing: it is asked again, if it does not want too long a pause. */
const SLOW_DOWN = { tries: 3, longest: 15 * SECOND };
/** After this time nobody waits for the answer of an asking any more. */
const ASKING = SLOW_DOWN.tries * CALL_TIMEOUT + (SLOW_DOWN.tries - 1) * SLOW_DOWN.longest + 10 * SECOND;
/** How often pictures that are paid for are fetched before it is given up. */
const FETCHES = 3;

const refusedSchema = v.object({
  bridge: v.string(),
  code: v.picklist(Object.keys(ERROR_CODES) as ErrorCode[]),
  message: v.string(),
  /** of an imagine that was taken and failed */
  id: v.optional(v.string()),
});
const recordSchema = v.object({
  ref: v.string(),
  /** in the order in which they were asked */
  refused: v.optional(v.array(refusedSchema), []),
  /** the bridge that is asked or has taken the prompt */
  bridge: v.optional(v.string()),
  /** milliseconds since 1970 */
  asked_at: v.optional(v.number(), 0),
  /** the bridge's own */
  id: v.optional(v.string()),
});
type Record = v.InferOutput<typeof recordSchema>;

export interface ImagineOptions {
  /** asked in this order */
  bridges: readonly Bridge[];
  bucket: Bucket;
  taskId: string;
  /** frame size, for the pictures' aspect */
  W: number;
  H: number;
  /** how long to wait for the pictures, in milliseconds */
  timeout: number;
  /** fetches one of a bridge's pictures */
  fetchPicture: (url: string, bridge: Bridge, signal: AbortSignal) => Promise<Uint8Array>;
  /** 0–1 */
  onProgress: (progress: number) => void;
  /** told why a bridge was passed over (the job's own error is logged by whoever runs the job) */
  log?: Pick<Log, 'info'> | undefined;
  signal: AbortSignal;
  now?: () => number;
}

export const pictureKey = (taskId: string, index: number) => `${taskFolder(taskId)}/imagine-${index}.png`;
const recordKey = (taskId: string) => `${taskFolder(taskId)}/imagine.json`;

/**
 * Makes sure that the task's four pictures lie in the bucket.
 * @throws JobError with the last bridge's reason; no_bridge, upstream_timeout, lost
 */
export async function imagine(prompt: string, options: ImagineOptions): Promise<void> {
  const { bucket, taskId, timeout, signal } = options;
  const keys = [1, 2, 3, 4].map((index) => pictureKey(taskId, index));
  if ((await Promise.all(keys.map((key) => bucket.has(key)))).every(Boolean)) return;

  const limited = deadline(signal, timeout);
  try {
    const four = await buy(prompt, { ...options, signal: limited.signal });
    await Promise.all(four.map((png, i) => bucket.put(keys[i]!, png)));
  } catch (error) {
    if (limited.passed() && !(error instanceof JobError) && !(error instanceof StorageError)) {
      throw new JobError('upstream_timeout', `the Midjourney bridge took longer than ${timeout / SECOND} s`, {
        cause: error,
      });
    }
    throw error;
  } finally {
    limited.clear();
  }
}

/** Goes from state to state until there are pictures. */
async function buy(prompt: string, options: ImagineOptions): Promise<Buffer[]> {
  const { bridges, taskId } = options;
  let record: Record = (await readRecord(options)) ?? { ref: taskId, refused: [], asked_at: 0 };
  for (;;) {
    if (record.bridge === undefined) {
      record = await ask(prompt, record, nextBridge(record, bridges), options);
    } else if (record.id === undefined) {
      record = await settle(record, options);
    } else {
      const bridge = bridges.find(({ name }) => name === record.bridge);
      if (!bridge) throw lost(`the Midjourney bridge that took the prompt, ${record.bridge}, is no longer configured`);
      const end = await waitFor(bridge, record.id, options);
      if (Array.isArray(end)) return end;
      record = await refuse(record, end.error, options);
    }
  }
}

/** @throws JobError: there is none, or none that could do better than the last */
function nextBridge({ refused }: Record, bridges: readonly Bridge[]): Bridge {
  const last = refused.at(-1);
  const bridge = bridges.find(({ name }) => !refused.some((refusal) => refusal.bridge === name));
  if (bridge && (!last || mayDoElsewhere(last.code))) return bridge;
  if (last) throw new JobError(last.code, last.message);
  throw new JobError(
    'no_bridge',
    'this service has no Midjourney bridge: send a picture or image_url instead of a prompt',
  );
}

const mayDoElsewhere = (code: ErrorCode) =>
  code in BRIDGE_ERRORS && BRIDGE_ERRORS[code as keyof typeof BRIDGE_ERRORS].elsewhere;

/** Asks a bridge, if nobody else does. @returns the intent with the bridge's id or its refusal, or another worker's intent */
async function ask(prompt: string, record: Record, bridge: Bridge, options: ImagineOptions): Promise<Record> {
  const { W, H, signal, now = Date.now } = options;
  signal.throwIfAborted();
  const intent: Record = { ref: record.ref, refused: record.refused, bridge: bridge.name, asked_at: now() };
  const other = await claim(intent, options);
  if (other) return other;
  for (let tries = 1; ; tries++) {
    try {
      const id = await bridge.imagine(toBridgePrompt(prompt, W, H), intent.ref);
      return await save({ ...intent, id }, options);
    } catch (error) {
      if (error instanceof StorageError) throw error; // taken, but not noted
      if (!(error instanceof JobError)) return await lookUp(intent, options, error);
      const pause = getRetryAfter(error) ?? bridge.pollInterval;
      const again = error.code === 'rate_limited' && tries < SLOW_DOWN.tries && pause <= SLOW_DOWN.longest;
      if (!again) return await refuse(intent, error, options);
      await delay(pause, undefined, { signal });
    }
  }
}

/** Makes the next asking ours. @returns the intent of whoever was first, or undefined */
async function claim(intent: Record, options: ImagineOptions): Promise<Record | undefined> {
  const { bucket, taskId } = options;
  const text = JSON.stringify(intent);
  const count = intent.refused.length + 1;
  const key = count === 1 ? recordKey(taskId) : `${taskFolder(taskId)}/imagine-ask-${count}.json`;
  if (!(await bucket.create(key, text))) return v.parse(recordSchema, await getJson(bucket, key));
  if (count > 1) await bucket.put(recordKey(taskId), text);
  return undefined;
}

/** An intent of another worker, which asks at this moment or has died over it. @returns what came of it */
async function settle(record: Record, options: ImagineOptions): Promise<Record> {
  const { bridges, signal, now = Date.now } = options;
  signal.throwIfAborted();
  const latest = await readRecord(options);
  const further = latest ? latest.refused.length - record.refused.length : -1; // a claim may be ahead of the record
  if (latest && (further > 0 || (further === 0 && latest.id !== undefined))) return latest;
  if (now() - record.asked_at >= ASKING) return lookUp(record, options);
  await delay(bridges.find(({ name }) => name === record.bridge)?.pollInterval ?? SECOND, undefined, { signal });
  return record;
}

/** @throws JobError lost, unless the bridge knows our ref */
async function lookUp(intent: Record, options: ImagineOptions, why?: unknown): Promise<Record> {
  const bridge = options.bridges.find(({ name }) => name === intent.bridge);
  let cause = why;
  try {
    const id = await bridge?.find?.(intent.ref, options.signal);
    if (id !== undefined) return await save({ ...intent, id }, options);
  } catch (error) {
    if (error instanceof StorageError || options.signal.aborted) throw error;
    cause ??= error;
  }
  throw lost(
    why
      ? 'the Midjourney bridge gave no answer that could be read; it may have taken the prompt, and been paid for it'
      : 'an earlier attempt broke off while the Midjourney bridge was asked; it may have been paid for',
    cause,
  );
}

const lost = (message: string, cause?: unknown) => new JobError('lost', message, { cause });

/**
 * A bridge will not do it. Noted by the one who asked, or as the end; of an imagine that was taken, all who wait for it see the failure,
 * and whoever claims the next asking notes it.
 * @throws the error, if no bridge is left
 */
async function refuse(record: Record, error: JobError, options: ImagineOptions): Promise<Record> {
  const { ref, refused, bridge, id } = record;
  const refusal = { bridge: bridge!, code: error.code, message: error.message, ...(id !== undefined && { id }) };
  const next: Record = { ref, refused: [...refused, refusal], asked_at: 0 };
  try {
    nextBridge(next, options.bridges);
  } catch {
    await save(next, options);
    throw error; // the same reason, with its cause
  }
  if (id === undefined) await save(next, options);
  options.log?.info({ bridge, code: error.code, error: error.cause }, 'bridge refused, the next is asked');
  return next;
}

async function readRecord({ bucket, taskId }: ImagineOptions): Promise<Record | undefined> {
  const found = await getJson(bucket, recordKey(taskId));
  return found === undefined ? undefined : v.parse(recordSchema, found);
}

async function save(record: Record, { bucket, taskId }: ImagineOptions): Promise<Record> {
  await bucket.put(recordKey(taskId), JSON.stringify(record));
  return record;
}

/** @returns the four pictures, or why there will be none */
async function waitFor(bridge: Bridge, id: string, options: ImagineOptions): Promise<Buffer[] | { error: JobError }> {
  const { signal } = options;
  try {
    for (let fetches = 1; ; fetches++) {
      const state = await lookUntilEnd(bridge, id, options);
      // What ran out of time may have been drawn and charged nevertheless.
      if (state.is === 'failed' && state.error.code === 'upstream_timeout') throw state.error;
      if (state.is === 'failed') return { error: state.error };
      try {
        return await download(state, bridge, options);
      } catch (error) {
        if (!(error instanceof JobError) || fetches === FETCHES) throw error;
        await delay(bridge.pollInterval, undefined, { signal }); // then with new addresses, for old ones expire
      }
    }
  } catch (error) {
    if (isStopped(signal)) await bridge.cancel?.(id).catch(() => undefined); // it goes on for nobody, as where there is no cancel
    throw error;
  }
}

/**
 * Whether RunPod stopped the job, for a cancel or at its time limit: the task has ended, and nobody will wait for the imagine again. When
 * the worker has to stop (another Error) or STILL_TIMEOUT has passed (a TimeoutError), a second job may still take up the same imagine.
 */
const isStopped = ({ aborted, reason }: AbortSignal) =>
  aborted && reason instanceof DOMException && reason.name === 'AbortError';

async function lookUntilEnd(
  bridge: Bridge,
  id: string,
  { onProgress, signal }: ImagineOptions,
): Promise<Exclude<ImagineState, { is: 'working' }>> {
  for (;;) {
    let pause = bridge.pollInterval;
    try {
      signal.throwIfAborted();
      const state = await bridge.getStatus(id, signal);
      if (state.is !== 'working') return state;
      onProgress(state.progress);
    } catch (error) {
      if (signal.aborted || (error instanceof JobError && error.code !== 'rate_limited')) throw error;
      pause = Math.max(pause, getRetryAfter(error) ?? 0); // the look failed on its way: look again
    }
    await delay(pause, undefined, { signal });
  }
}

/** The four by themselves, or else cut from the grid. */
async function download(
  { pictures, grid }: Extract<ImagineState, { is: 'done' }>,
  bridge: Bridge,
  { fetchPicture, signal }: ImagineOptions,
): Promise<Buffer[]> {
  const load = async (url: string) => {
    try {
      return await toPng(await fetchPicture(url, bridge, signal), signal);
    } catch (error) {
      if (!(error instanceof JobError) || error.code !== 'image_rejected') throw error;
      throw new JobError('image_unavailable', 'the bridge’s picture can’t be used', { cause: error }); // no fault of the caller's
    }
  };
  try {
    if (pictures.length === 4) return await Promise.all(pictures.map(load));
  } catch (error) {
    if (!(error instanceof JobError) || grid === undefined) throw error;
  }
  return quadrants(await load(grid!));
}

/** The four pictures of a 2×2 grid, row by row. */
async function quadrants(grid: Buffer): Promise<Buffer[]> {
  const meta = await sharp(grid).metadata();
  const width = Math.floor(meta.width / 2);
  const height = Math.floor(meta.height / 2);
  const corners = [0, 1, 2, 3].map((i) => ({ left: (i % 2) * width, top: Math.floor(i / 2) * height }));
  return Promise.all(
    corners.map((corner) =>
      sharp(grid)
        .extract({ ...corner, width, height })
        .png({ compressionLevel: 2 })
        .toBuffer(),
    ),
  );
}
