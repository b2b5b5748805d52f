import { taskFolder } from '../../core/job.ts';

/** The output of a job that has made one video. The files do not exist. */
export function jobOutput(taskId: string, jobId: string) {
  const key = `${taskFolder(taskId)}/${jobId}/video-1.mp4`;
  const video = { key, seed: 1, width: 64, height: 64, frames: 2, fps: 6, seconds: 1 / 3, bytes: 1, sha256: 'x' };
  const still = `${taskFolder(taskId)}/still.png`;
  return { videos: [video], still, seed: 1, model: 'camera', warnings: [], timings_ms: {} };
}
