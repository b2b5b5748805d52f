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
  /** the bridge's own id, once it has accepted the prompt */
  id: v.optional(v.string()),
});
export type ImagineRecord = v.InferOutput<typeof recordSchema>;

interface RecordLocation {
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
