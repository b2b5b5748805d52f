import { JobError, type JobUsage } from '../core/job.ts';

/**
 * What a failed job returns to RunPod. After an unexpected error on a GPU the worker ends, since the GPU may have failed: the worker that
 * replaces it verifies its device before it serves.
 * @param device of the model, undefined if it has no networks
 */
export function failureOf(
  error: unknown,
  { usage, aborted, device }: { usage: JobUsage; aborted: boolean; device: string | undefined },
): { error: string; refresh_worker?: true } {
  const message = aborted ? 'the worker had to stop' : 'the worker failed; its log says why';
  const { data } = error instanceof JobError ? error : new JobError('internal', message);
  const onGpu = device !== undefined && device !== 'cpu';
  const gpuMayHaveFailed = onGpu && !aborted && !(error instanceof JobError);
  return { error: JSON.stringify({ ...data, usage }), ...(gpuMayHaveFailed && { refresh_worker: true }) };
}
