/** The record of a task's imagine, in the bucket: who was asked, who refused, and who was paid. */
import * as v from 'valibot';
import { type Bucket, getJson } from '../../../core/bucket/bucket.ts';
import { ERROR_CODES, type ErrorCode, imagineKey, taskFolder } from '../../../core/job.ts';

const refusalSchema = v.object({
  bridge: v.string(),
  code: v.picklist(Object.keys(ERROR_CODES) as ErrorCode[]),
  message: v.string(),
  /** of an imagine that was accepted and failed */
  id: v.optional(v.string()),
});
const recordSchema = v.object({
  /** our reference, for the bridge */
  ref: v.string(),
  /** in the order of the requests */
  refused: v.optional(v.array(refusalSchema), []),
  /** the bridge that is asked, or has accepted the prompt */
  bridge: v.optional(v.string()),
  /** milliseconds since 1970 */
  asked_at: v.optional(v.number(), 0),
  /** how long the worker that asks waits for the answer, if that is longer than CALL_TIMEOUT; milliseconds */
  answer_timeout: v.optional(v.number()),
  /** the bridge's own id, once it has accepted the prompt; our reference if its answer has the pictures */
  id: v.optional(v.string()),
});
export type ImagineRecord = v.InferOutput<typeof recordSchema>;

export interface RecordLocation {
  bucket: Bucket;
  taskId: string;
}

export async function readRecord({ bucket, taskId }: RecordLocation): Promise<ImagineRecord | undefined> {
  const found = await getJson(bucket, imagineKey(taskId));
  return found === undefined ? undefined : v.parse(recordSchema, found);
}

export async function saveRecord(record: ImagineRecord, { bucket, taskId }: RecordLocation): Promise<ImagineRecord> {
  await bucket.put(imagineKey(taskId), JSON.stringify(record));
  return record;
}

/** Claims the next request for this worker. @returns another worker's intent if that one was first, else undefined */
export async function claimRequest(
  intent: ImagineRecord,
  { bucket, taskId }: RecordLocation,
): Promise<ImagineRecord | undefined> {
  const text = JSON.stringify(intent);
  const count = intent.refused.length + 1;
  const key = count === 1 ? imagineKey(taskId) : `${taskFolder(taskId)}/imagine-ask-${count}.json`;
  if (!(await bucket.create(key, text))) return v.parse(recordSchema, await getJson(bucket, key));
  if (count > 1) await bucket.put(imagineKey(taskId), text);
  return undefined;
}

/** The answer of a bridge that has no id, because it answers with the pictures: their URLs, also `data:`. It can't be asked for again. */
const answerSchema = v.object({ pictures: v.array(v.string()) });
const answerKey = (taskId: string) => `${taskFolder(taskId)}/imagine-answer.json`;

export const hasAnswer = ({ bucket, taskId }: RecordLocation) => bucket.has(answerKey(taskId));

export async function readAnswer({ bucket, taskId }: RecordLocation): Promise<string[] | undefined> {
  const found = await getJson(bucket, answerKey(taskId));
  return found === undefined ? undefined : v.parse(answerSchema, found).pictures;
}

export const saveAnswer = (pictures: string[], { bucket, taskId }: RecordLocation) =>
  bucket.put(answerKey(taskId), JSON.stringify({ pictures }));

/** Deletes the answer once its pictures are in the bucket, because it may have megabytes. */
export const deleteAnswer = ({ bucket, taskId }: RecordLocation) => bucket.delete(answerKey(taskId));
