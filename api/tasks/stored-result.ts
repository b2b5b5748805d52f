import { type Bucket, getJson } from '../../core/bucket/bucket.ts';
import { taskFolder } from '../../core/job.ts';
import type { Changes, Task } from '../store/task.ts';
import { completed, failed } from './transition.ts';

/** The end of a task according to the result that a job left in the bucket: RunPod itself keeps results for only half an hour. */
export async function storedResult(task: Task, bucket: Bucket, now: number): Promise<Changes | undefined> {
  const result = (await getJson(bucket, `${taskFolder(task.id)}/result.json`)) as
    | { output?: unknown; error?: Task['error'] }
    | undefined;
  if (!result) return undefined;
  return result.error ? failed(result.error, now) : completed(task, result.output, now);
}
