import type { Bucket } from '../../core/bucket/bucket.ts';
import type { Stage } from '../../core/job.ts';
import type { PresentedTask } from '../../core/responses.ts';
import { SECOND } from '../../core/time.ts';
import type { Dependencies } from '../dependencies.ts';
import type { PublicTask } from '../store/task.ts';
import { shareLink } from './share-link.ts';

const BEFORE_SAMPLING: Stage[] = ['still', 'loading'];
/** The time left is estimated once a task has taken so long, or has come so far. */
const MIN_ELAPSED = 10 * SECOND;
const MIN_PROGRESS = 0.4;

/** A task as clients see it, with freshly signed links; without links once its files are deleted. */
export async function presentTask(
  task: PublicTask,
  { config, bucket, now }: Pick<Dependencies, 'config' | 'bucket' | 'now'>,
): Promise<PresentedTask> {
  const expires = Math.floor(now() / 1000) + config.linkSeconds;
  const output = task.expired_at === null ? task.output : null;
  const still = task.expired_at === null ? task.still : null;
  return {
    id: task.id,
    status: task.status,
    ...(task.stage && { stage: task.stage }),
    ...(task.step !== null && task.steps !== null && { step: task.step, steps: task.steps }),
    progress: Math.round(task.progress * 1000) / 1000,
    ...(task.status === 'running' && etaOf(task, now())),
    created_at: time(task.created_at),
    ...(task.started_at !== null && { started_at: time(task.started_at) }),
    ...(task.finished_at !== null && { finished_at: time(task.finished_at) }),
    model: task.model,
    input: task.input,
    warnings: [...task.warnings, ...(task.output?.warnings ?? [])],
    ...(still !== null && { still: { link: await bucket.link(still, expires) } }),
    ...(output && { videos: await Promise.all(output.videos.map((video) => withLink(video, bucket, expires))) }),
    ...(output?.grid && { grid: await withLink(output.grid, bucket, expires) }),
    ...(output && { share_link: shareLink(task, expires, config.publicUrl) }),
    ...(still !== null && { links_expire_at: time(expires * 1000) }),
    ...(task.expired_at !== null && { expired_at: time(task.expired_at) }),
    ...(task.error && { error: task.error }),
    ...(task.cost && { cost: task.cost }),
  };
}

/** A file with a link in place of its bucket key. */
async function withLink<F extends { key: string }>({ key, ...rest }: F, bucket: Bucket, expires: number) {
  return { link: await bucket.link(key, expires), ...rest };
}

const time = (ms: number) => new Date(ms).toISOString();

/** Extrapolates the progress. Before sampling, and at the beginning of a short clip, that would be many times too long. */
function etaOf({ stage, progress, started_at }: PublicTask, now: number): { eta_seconds: number } | undefined {
  if (started_at === null || progress < 0.02 || stage === null || BEFORE_SAMPLING.includes(stage)) return undefined;
  const elapsed = now - started_at;
  if (elapsed < MIN_ELAPSED && progress < MIN_PROGRESS) return undefined;
  return { eta_seconds: Math.ceil(((elapsed / SECOND) * (1 - progress)) / progress) };
}
