/**
 * One result for each task, however many jobs run it: RunPod may give a job to two workers, and the API may submit a second one.
 *
 *   no result.json   the job runs, and creates it: with its output, or with an error that a retry would repeat
 *   result.json      it is the answer of every job, running or new; they delete their own files, and those of dead workers
 */
import * as v from 'valibot';
import { type Bucket, getJson, StorageError } from '../core/bucket/bucket.ts';
import { JobError, type JobOutput, jobErrorSchema, outputSchema, taskFolder } from '../core/job.ts';
import { beginAttempt, clearAttempts } from './attempts.ts';

const resultSchema = v.union([v.object({ output: outputSchema }), v.object({ error: jobErrorSchema })]);
type Result = v.InferOutput<typeof resultSchema>;

/**
 * @param work makes the job's files in the bucket's `folder`
 * @returns the task's output, of this job or of a faster one
 * @throws JobError, the task's; any other error of `work` that leaves the task without a result
 */
export async function finishOnce(
  bucket: Bucket,
  taskId: string,
  jobId: string,
  work: (folder: string) => Promise<JobOutput>,
): Promise<JobOutput> {
  const folder = `${taskFolder(taskId)}/${jobId}`;
  let result = await readResult(bucket, taskId);
  if (result) {
    await removeOtherFiles(bucket, taskId, [jobId]).catch(ignoreStorageError); // their worker may have died before it could
    return outputOf(result);
  }
  let endAttempt = async () => {};
  try {
    endAttempt = await beginAttempt(bucket, taskId, jobId);
    result = await createResult(bucket, taskId, folder, { output: await work(folder) });
  } catch (error) {
    await removeFiles(bucket, taskId, folder).catch(ignoreStorageError);
    if (error instanceof JobError && !error.data.retryable && error.code !== 'canceled') {
      result = await createResult(bucket, taskId, folder, { error: error.data });
    } else {
      // A faster job's result counts. That job may have deleted this one's files, which is why this one failed.
      const other = await readResult(bucket, taskId).catch(ignoreStorageError);
      if (!other) throw error;
      return outputOf(other);
    }
  } finally {
    await endAttempt().catch(ignoreStorageError);
    if (result) await removeOtherFiles(bucket, taskId).catch(ignoreStorageError);
  }
  return outputOf(result);
}

async function readResult(bucket: Bucket, taskId: string): Promise<Result | undefined> {
  const found = await getJson(bucket, `${taskFolder(taskId)}/result.json`);
  return found === undefined ? undefined : v.parse(resultSchema, found);
}

/** @throws JobError: the error that was stored */
function outputOf(result: Result): JobOutput {
  if ('error' in result) throw new JobError(result.error.code, result.error.message);
  return result.output;
}

/** @returns the task's result: this one if it is the first */
async function createResult(bucket: Bucket, taskId: string, folder: string, result: Result): Promise<Result> {
  if (await bucket.create(`${taskFolder(taskId)}/result.json`, JSON.stringify(result))) return result;
  await removeFiles(bucket, taskId, folder);
  return (await readResult(bucket, taskId))!;
}

/** Deletes a job's files, unless they are the task's result: a job that runs at two workers has one folder. */
async function removeFiles(bucket: Bucket, taskId: string, folder: string): Promise<void> {
  const result = await readResult(bucket, taskId);
  const isResult = result && 'output' in result && result.output.videos.some(({ key }) => key.startsWith(`${folder}/`));
  if (!isResult) await bucket.delete(folder);
}

/** Deletes the attempt slots of a task that has a result, and the files of all its jobs but the one whose result counts. */
async function removeOtherFiles(bucket: Bucket, taskId: string, jobs: string[] = []): Promise<void> {
  for (const job of new Set([...jobs, ...(await clearAttempts(bucket, taskId))]))
    await removeFiles(bucket, taskId, `${taskFolder(taskId)}/${job}`);
}

/** How the job ended matters more than files that stay until the task's folder is deleted. */
function ignoreStorageError(error: unknown) {
  if (!(error instanceof StorageError)) throw error;
}
