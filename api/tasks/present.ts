import { type Bucket, contentType } from '../../core/bucket/bucket.ts';
import { clipName } from '../../core/file-name.ts';
import type { JobOutput, Stage } from '../../core/job.ts';
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
  const files: FileContext = { bucket, expires, name: clipName(task.input) };
  const share_link = shareLink(task, expires, config.publicUrl);
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
    ...(task.metadata && { metadata: task.metadata }),
    ...(still !== null && {
      still: {
        ...(await presentFile(still, 'still', files)),
        ...(task.still_preview !== null && { preview: await presentFile(task.still_preview, 'still', files) }),
      },
    }),
    ...(output?.pictures !== undefined && { pictures: output.pictures }),
    ...(output && { videos: await Promise.all(output.videos.map((video) => presentVideo(video, files))) }),
    ...(output?.grid && { grid: await presentMp4(output.grid, `${output.seed}-grid`, files) }),
    ...(output && share_link !== undefined && { share_link }),
    ...(still !== null && { links_expire_at: time(expires * 1000) }),
    ...(task.expired_at !== null && { expired_at: time(task.expired_at) }),
    ...(task.error && { error: task.error }),
    ...(task.cost && { cost: task.cost }),
    ...(task.output?.device && { device: task.output.device }),
    urls: taskUrls(task.id, config.publicUrl),
  };
}

/** The calls of a task, and its place on the page. */
export function taskUrls(id: string, publicUrl: string): PresentedTask['urls'] {
  const self = `${publicUrl}/tasks/${id}`;
  return { self, events: `${self}/events`, cancel: `${self}/cancel`, delete: self, web: `${publicUrl}/#${id}` };
}

interface FileContext {
  bucket: Bucket;
  /** seconds since 1970 */
  expires: number;
  /** what file names begin with */
  name: string;
}

/** @param suffix what the file's name ends with, before its type */
async function presentFile(key: string, suffix: string | number, { bucket, expires, name }: FileContext) {
  const filename = `${name}-${suffix}${key.slice(key.lastIndexOf('.'))}`;
  return { link: await bucket.link(key, expires, { filename }), content_type: contentType(key)!, filename };
}

async function presentMp4<F extends { key: string }>(
  { key, ...facts }: F,
  suffix: string | number,
  files: FileContext,
) {
  const { link, ...file } = await presentFile(key, suffix, files);
  const { filename } = file;
  const download_link = await files.bucket.link(key, files.expires, { filename, download: true });
  return { link, download_link, ...file, ...facts };
}

async function presentVideo({ poster, preview, ...video }: JobOutput['videos'][number], files: FileContext) {
  const { seed } = video;
  return {
    ...(await presentMp4(video, seed, files)),
    ...(poster !== undefined && { poster: await presentFile(poster, seed, files) }),
    ...(preview !== undefined && { preview: await presentFile(preview, seed, files) }),
  };
}

const time = (ms: number) => new Date(ms).toISOString();

/** Extrapolates the progress. Before sampling, and at the beginning of a short clip, that would be many times too long. */
function etaOf({ stage, progress, started_at }: PublicTask, now: number): { eta_seconds: number } | undefined {
  if (started_at === null || progress < 0.02 || stage === null || BEFORE_SAMPLING.includes(stage)) return undefined;
  const elapsed = now - started_at;
  if (elapsed < MIN_ELAPSED && progress < MIN_PROGRESS) return undefined;
  return { eta_seconds: Math.ceil(((elapsed / SECOND) * (1 - progress)) / progress) };
}
