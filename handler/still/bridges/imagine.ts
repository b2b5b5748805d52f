/**
 * Turns a prompt into pictures in the task's folder, and pays for them once.
 *
 * The record imagine.json is written before and after each payment. Its states, and what each leads to:
 *
 *   new       no `bridge`        claim the request, then ask the next bridge   → accepted, refused, or the end: lost
 *   intent    `bridge`, no `id`  await the worker that asks; if it died, look  → accepted, refused, or the end: lost
 *                                the imagine up at the bridge by our reference
 *   accepted  `bridge`, `id`     wait for the pictures                         → the end: the pictures; or refused
 *   refused   one more in        try the next bridge, if it may do better      → new, or the end: the last bridge's reason
 *             `refused`
 *
 * A refusal costs nothing, and no bridge is asked twice. An intent whose id is unknown may have been paid for, so it never leads to a
 * second payment. Workers claim each request by creating a file: of two workers on one task, one asks and the other waits.
 *
 * Some bridges answer only when the pictures are drawn. Their answer is saved as imagine-answer.json before the record is accepted; an
 * intent with a saved answer is accepted.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { type Bucket, StorageError } from '../../../core/bucket/bucket.ts';
import { type ErrorCode, JobError, type JobOutput, taskFolder } from '../../../core/job.ts';
import type { Log } from '../../../core/log.ts';
import { SECOND } from '../../../core/time.ts';
import { BRIDGE_ERRORS, type Bridge, type ImagineStatus } from './bridge.ts';
import { CALL_TIMEOUT, getRetryAfter, isUnexpectedAnswer } from './create-bridge.ts';
import { downloadImagine } from './download-imagine.ts';
import {
  claimRequest,
  deleteAnswer,
  hasAnswer,
  type ImagineRecord,
  type RecordLocation,
  readAnswer,
  readRecord,
  saveAnswer,
  saveRecord,
} from './imagine-record.ts';

/** A bridge that asks to slow down has accepted nothing. It is asked again if it said so soon and the pause is not too long. */
const RATE_LIMIT_ATTEMPTS = 3;
const MAX_RATE_LIMIT_PAUSE = 15 * SECOND;
/** After this time no worker can still be waiting for the answer to a request. In milliseconds. */
const claimTimeout = ({ answer_timeout = CALL_TIMEOUT }: ImagineRecord) =>
  answer_timeout + (RATE_LIMIT_ATTEMPTS - 1) * (CALL_TIMEOUT + MAX_RATE_LIMIT_PAUSE) + 10 * SECOND;
const DOWNLOAD_ATTEMPTS = 3;
/** Consecutive answers that can't be read, such as the error page of a proxy. The picture is paid for, so one is not its end. */
const MAX_UNREADABLE = 5;

export interface ImagineOptions {
  bucket: Bucket;
  /** asked in this order; empty: prompts are refused */
  bridges: readonly Bridge[];
  /** whether pictures may be fetched from private addresses */
  allowPrivate: boolean;
  /** milliseconds that a bridge may take */
  stillTimeout: number;
  taskId: string;
  /** the picture that must be among them, 1–4 */
  index: number;
  /** frame size, for the pictures' aspect ratio */
  W: number;
  H: number;
  signal: AbortSignal;
  /** 0–1 */
  onProgress: (progress: number) => void;
  /** receives the reason when a bridge is skipped; the error of the job is logged elsewhere */
  log?: Pick<Log, 'info'> | undefined;
  /** milliseconds since 1970 */
  now?: () => number;
}

export const pictureKey = (taskId: string, index: number) => `${taskFolder(taskId)}/imagine-${index}.png`;

/**
 * Makes sure that the task's pictures are in the bucket: as many as the bridge draws.
 * @throws JobError with the last bridge's reason; no_bridge, invalid_input (no bridge draws so many), upstream_timeout, lost
 */
export async function imagine(prompt: string, options: ImagineOptions): Promise<void> {
  const { bucket, taskId, signal } = options;
  const first = pictureKey(taskId, 1); // is saved last
  if (await bucket.has(first)) return;

  const timeout = AbortSignal.timeout(options.stillTimeout);
  try {
    const pictures = await generateImages(prompt, { ...options, signal: AbortSignal.any([signal, timeout]) });
    await Promise.all(pictures.slice(1).map((png, i) => bucket.put(pictureKey(taskId, i + 2), png)));
    await bucket.put(first, pictures[0]!);
    await deleteAnswer(options);
  } catch (error) {
    if (error instanceof JobError && error.code === 'lost' && (await bucket.has(first))) return; // another worker was quicker
    if (!timeout.aborted || error instanceof JobError || error instanceof StorageError) throw error;
    const message = `the bridge took longer than ${options.stillTimeout / SECOND} s`;
    throw new JobError('upstream_timeout', message, { cause: error });
  }
}

/** Goes from state to state until there are pictures. */
async function generateImages(prompt: string, options: ImagineOptions): Promise<Buffer[]> {
  const { bridges, taskId } = options;
  let record: ImagineRecord = (await readRecord(options)) ?? { ref: taskId, refused: [], asked_at: 0 };
  for (;;) {
    if (record.bridge === undefined) {
      record = await ask(prompt, record, nextBridge(record, options), options);
    } else if (record.id === undefined) {
      record = await awaitOtherWorker(record, options);
    } else {
      const bridge = bridges.find(({ name }) => name === record.bridge);
      if (!bridge) throw lost(`the bridge ${record.bridge}, which accepted the prompt, is no longer configured`);
      const result = await waitForPictures(bridge, record.id, options);
      if (Array.isArray(result)) return result;
      record = await refuse(record, result, options);
    }
  }
}

/** @throws JobError if no bridge is left, or none that could do better than the last */
function nextBridge({ refused }: ImagineRecord, { bridges, index }: Pick<ImagineOptions, 'bridges' | 'index'>): Bridge {
  const last = refused.at(-1);
  const able = bridges.filter(({ count }) => count >= index);
  const bridge = able.find(({ name }) => !refused.some((refusal) => refusal.bridge === name));
  if (bridge && (!last || isBridgesFault(last.code))) return bridge;
  if (last) throw new JobError(last.code, last.message);
  if (bridges.length > 0) {
    const most = Math.max(...bridges.map(({ count }) => count));
    const allowed = most === 1 ? 'must be 1' : `must be from 1 to ${most}`;
    throw new JobError('invalid_input', `image_index ${allowed}: so many pictures of a prompt are drawn here`);
  }
  throw new JobError(
    'no_bridge',
    'this service has no image provider: send a picture or image_url instead of a prompt',
  );
}

const isBridgesFault = (code: ErrorCode) =>
  code in BRIDGE_ERRORS && !BRIDGE_ERRORS[code as keyof typeof BRIDGE_ERRORS].isPromptsFault;

/** Asks a bridge, unless another worker does. @returns the accepted or refused record, or the other worker's intent */
async function ask(
  prompt: string,
  { ref, refused }: ImagineRecord,
  bridge: Bridge,
  options: ImagineOptions,
): Promise<ImagineRecord> {
  const { W, H, signal, now = Date.now } = options;
  signal.throwIfAborted();
  const { answerTimeout } = bridge;
  const intent: ImagineRecord = {
    ...{ ref, refused, bridge: bridge.name, asked_at: now() },
    ...(answerTimeout > CALL_TIMEOUT && { answer_timeout: answerTimeout }),
  };
  const other = await claimRequest(intent, options);
  if (other) return other;
  for (let attempts = 1; ; attempts++) {
    const began = performance.now();
    try {
      const result = await bridge.imagine(bridge.writePrompt(prompt, W, H), ref);
      if (typeof result !== 'string') await saveAnswer(result, options);
      return await saveRecord({ ...intent, id: typeof result === 'string' ? result : ref }, options);
    } catch (error) {
      if (error instanceof StorageError) throw error; // accepted, but not recorded
      if (!(error instanceof JobError)) return await lookUp(intent, options, error);
      const pause = getRetryAfter(error) ?? bridge.pollInterval;
      const wasSlow = performance.now() - began > CALL_TIMEOUT;
      const isLast = attempts === RATE_LIMIT_ATTEMPTS || pause > MAX_RATE_LIMIT_PAUSE || wasSlow;
      if (error.code !== 'rate_limited' || isLast) return await refuse(intent, error, options);
      await delay(pause, undefined, { signal });
    }
  }
}

/** Waits once for another worker, which is asking now or died while it did. @returns its latest record */
async function awaitOtherWorker(record: ImagineRecord, options: ImagineOptions): Promise<ImagineRecord> {
  const { bridges, signal, now = Date.now } = options;
  signal.throwIfAborted();
  const latest = await readRecord(options);
  const ahead = latest ? latest.refused.length - record.refused.length : -1; // negative: claimed, but not recorded yet
  if (latest && (ahead > 0 || (ahead === 0 && latest.id !== undefined))) return latest;
  const isAnswered = record.answer_timeout !== undefined && (await hasAnswer(options));
  if (isAnswered || now() - record.asked_at >= claimTimeout(record)) return lookUp(record, options);
  await delay(bridges.find(({ name }) => name === record.bridge)?.pollInterval ?? SECOND, undefined, { signal });
  return record;
}

/**
 * Searches the bridge for an imagine with our reference, or the bucket for the bridge's answer.
 * @param reason why its id is unknown; absent if another worker died
 * @throws JobError lost
 */
async function lookUp(intent: ImagineRecord, options: ImagineOptions, reason?: unknown): Promise<ImagineRecord> {
  const bridge = options.bridges.find(({ name }) => name === intent.bridge);
  let cause = reason;
  try {
    const id = (await hasAnswer(options)) ? intent.ref : await bridge?.find?.(intent.ref, options.signal);
    if (id !== undefined) return await saveRecord({ ...intent, id }, options);
  } catch (error) {
    if (error instanceof StorageError || options.signal.aborted) throw error;
    cause ??= error;
  }
  throw lost(
    reason
      ? 'the bridge sent no readable answer; it may have accepted the prompt and charged for it'
      : 'an earlier attempt broke off during the request to the bridge, which may have charged for it',
    cause,
  );
}

const lost = (message: string, cause?: unknown) => new JobError('lost', message, { cause });

/**
 * Adds a refusal to the record. It is saved by the worker that asked, or when no bridge is left. The failure of an accepted imagine is
 * seen by all workers that wait for it; the one that claims the next request saves it.
 * @throws the error, if no bridge is left
 */
async function refuse(record: ImagineRecord, error: JobError, options: ImagineOptions): Promise<ImagineRecord> {
  const { ref, refused, bridge, id } = record;
  const refusal = { bridge: bridge!, code: error.code, message: error.message, ...(id !== undefined && { id }) };
  const next: ImagineRecord = { ref, refused: [...refused, refusal], asked_at: 0 };
  try {
    nextBridge(next, options);
  } catch {
    await saveRecord(next, options);
    throw error; // the same reason, with its cause
  }
  if (id === undefined) await saveRecord(next, options);
  options.log?.info({ bridge, code: error.code, error: error.cause }, 'bridge refused, trying the next one');
  return next;
}

/** @returns the pictures, or why there will be none */
async function waitForPictures(bridge: Bridge, id: string, options: ImagineOptions): Promise<Buffer[] | JobError> {
  const { signal } = options;
  const answer = await readAnswer(options);
  try {
    for (let attempts = 1; ; attempts++) {
      const result: Awaited<ReturnType<typeof pollUntilEnd>> = answer
        ? { status: 'done', pictures: answer, grid: undefined }
        : await pollUntilEnd(bridge, id, options);
      if (result.status === 'failed') {
        if (result.error.code === 'upstream_timeout') throw result.error; // it may have been drawn and charged nevertheless
        return result.error;
      }
      try {
        return await downloadImagine(result, bridge, options);
      } catch (error) {
        if (!(error instanceof JobError) || attempts === DOWNLOAD_ATTEMPTS) throw error;
        await delay(bridge.pollInterval, undefined, { signal }); // then with new URLs, since URLs expire
      }
    }
  } catch (error) {
    if (isCanceled(signal)) await bridge.cancel?.(id).catch(() => undefined); // saves credit only; the task has ended either way
    throw error;
  }
}

/**
 * Whether RunPod stopped the job, for a cancel or at its time limit: the task has ended, and no job will wait for the imagine again.
 * After a worker's shutdown (another Error) or STILL_TIMEOUT (a TimeoutError) a second job may still wait for the same imagine.
 */
const isCanceled = ({ aborted, reason }: AbortSignal) =>
  aborted && reason instanceof DOMException && reason.name === 'AbortError';

const isTemporary = (error: unknown) => !(error instanceof JobError) || error.code === 'rate_limited';

async function pollUntilEnd(
  bridge: Bridge,
  id: string,
  { onProgress, signal }: ImagineOptions,
): Promise<Exclude<ImagineStatus, { status: 'working' }>> {
  for (let unreadable = 0; ; ) {
    let pause = bridge.pollInterval;
    try {
      signal.throwIfAborted();
      const result = await bridge.getStatus(id, signal);
      unreadable = 0;
      if (result.status !== 'working') return result;
      onProgress(result.progress);
    } catch (error) {
      if (signal.aborted) throw error;
      if (isUnexpectedAnswer(error) ? ++unreadable === MAX_UNREADABLE : !isTemporary(error)) throw error;
      pause = Math.max(pause, getRetryAfter(error) ?? 0);
    }
    await delay(pause, undefined, { signal });
  }
}

/** How many pictures of the prompt are in the bucket, and warnings about its flags that the bridge which drew them does not know. */
export async function describeDrawn(
  prompt: string,
  { bridges, ...location }: RecordLocation & Pick<ImagineOptions, 'bridges'>,
): Promise<Pick<JobOutput, 'warnings'> & { pictures: number }> {
  const { bucket, taskId } = location;
  const found = await Promise.all([1, 2, 3, 4].map((index) => bucket.has(pictureKey(taskId, index))));
  const pictures = found.filter(Boolean).length;
  const record = await readRecord(location);
  const unknown = bridges.find(({ name }) => name === record?.bridge)?.unknownFlags?.(prompt) ?? [];
  if (unknown.length === 0) return { warnings: [], pictures };
  const message = `the image provider does not know Midjourney’s flags; ignored with what follows them: ${unknown.join(', ')}`;
  return { warnings: [{ field: 'prompt', message }], pictures };
}
