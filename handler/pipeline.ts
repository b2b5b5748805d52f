/** One job: still → videos → grid → bucket. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import * as v from 'valibot';
import { type Bucket, StorageError } from '../core/bucket/bucket.ts';
import { isSized, pngSize, withSize } from '../core/frame-size.ts';
import { JobError, type JobInput, type JobOutput, jobSchema, type Progress } from '../core/job.ts';
import type { Log } from '../core/log.ts';
import type { ModelName } from '../core/presets.ts';
import { createScratchFolder, hasCode } from '../core/temp-files.ts';
import { finishOnce } from './job-result.ts';
import type { Model } from './models/model.ts';
import { createStageTimer, type StageTimer } from './stage-timer.ts';
import { describeDrawn, type ImagineOptions } from './still/bridges/imagine.ts';
import { fitStill } from './still/fit.ts';
import { prepareStill, saveStillPreview, stillKey } from './still/still.ts';
import { gridFrames, gridSize } from './video/grid.ts';
import { describeMp4, makeVideo } from './video/make-video.ts';
import { writeMp4 } from './video/mp4.ts';
import type { Pictures } from './video/preview.ts';

/** What a worker uses for all its jobs. */
export interface Worker extends Pick<ImagineOptions, 'bucket' | 'bridges' | 'allowPrivate' | 'stillTimeout'> {
  modelName: ModelName;
  model: Model;
  /** while this folder exists, every decoded frame is kept in it: <folder>/<task id>/<video>/0001.png … */
  framesDir: string | undefined;
}

type Video = JobOutput['videos'][number];

export interface JobContext {
  jobId: string;
  progress: (progress: Progress) => void;
  signal: AbortSignal;
  log?: Pick<Log, 'debug' | 'info'>;
  /** measures the job, also for the caller */
  timer?: StageTimer;
}

/**
 * @param raw a job's input, not yet validated
 * @throws JobError; any other error is the worker's fault
 */
export async function runJob(raw: unknown, worker: Worker, context: JobContext): Promise<JobOutput> {
  const job = parseJob(raw, worker.modelName);
  try {
    return await finishOnce(worker.bucket, job.task_id, context.jobId, (folder) =>
      makeVideos(job, folder, worker, context),
    );
  } catch (error) {
    if (!(error instanceof StorageError || hasCode(error, 'ENOSPC', 'EDQUOT'))) throw error;
    const message = 'the bucket or the worker’s disk could not be used; the worker’s log says why';
    throw new JobError('storage_error', message, { cause: error });
  }
}

function parseJob(raw: unknown, modelName: ModelName): JobInput {
  const { success, output, issues } = v.safeParse(jobSchema, raw);
  if (!success) {
    const problems = issues.map((issue) => `${v.getDotPath(issue) ?? 'job'}: ${issue.message}`);
    throw new JobError('invalid_input', problems.join('; '));
  }
  if (output.model !== modelName) {
    throw new JobError('invalid_input', `model: this worker runs ${modelName}, not ${output.model}`);
  }
  return output;
}

/** The whole job. Each video is uploaded to `folder` while the next one is made. */
async function makeVideos(input: JobInput, folder: string, worker: Worker, context: JobContext): Promise<JobOutput> {
  const { bucket, model } = worker;
  const { T, fps, num_cols, task_id } = input;
  const { log, timer = createStageTimer(log) } = context;
  let chosen: Pick<Progress, 'size'> = {}; // in every report once it is known, since RunPod keeps the latest only
  const progress = (report: Progress) => context.progress({ ...report, ...chosen, usage: timer.usage() });
  const failedUpload = new AbortController(); // a failed upload ends the job
  const signal = AbortSignal.any([context.signal, failedUpload.signal]);
  const timed = timer.timed(signal);
  const timing = { frames: T, fps, seconds: T / fps };
  const still = stillKey(task_id);

  // The parts of the progress bar: a bridge is slow, other stills are quick; the grid counts as half a video.
  const stillPart = input.prompt === undefined ? 0.05 : 0.4;
  const videoPart = (1 - stillPart) / (num_cols > 1 ? num_cols + 0.5 : 1);

  const scratch = await createScratchFolder();
  const paths = Array.from({ length: num_cols }, (_, column) => join(scratch, `video-${column + 1}.mp4`));
  const warnings: JobOutput['warnings'] = [];
  const uploads: Promise<Video>[] = [];
  const upload = <R>(work: () => Promise<R>) => {
    const uploaded = timed('uploading', work);
    uploaded.catch((error) => failedUpload.abort(error));
    return uploaded;
  };
  const target = { bucket, folder, scratch };

  try {
    if (isSized(input)) model.check(input); // before a bridge is paid
    progress({ stage: 'still', progress: 0 });
    const onProgress = (part: number) => progress({ stage: 'still', progress: part * stillPart });
    const png = await timed('still', () => prepareStill(input, { ...worker, onProgress, log, signal }));
    const drawn =
      input.prompt === undefined ? undefined : await describeDrawn(input.prompt, { ...worker, taskId: task_id });
    warnings.push(...(drawn?.warnings ?? []));
    const job = isSized(input) ? input : withSize(input, ratioOf(png), input.model);
    const { H, W } = job;
    if (!isSized(input)) {
      chosen = { size: { H, W } };
      model.check(job);
    }
    progress({ stage: 'loading', progress: stillPart });
    const [fitted, still_preview] = await timed('loading', () =>
      Promise.all([fitStill(png, job), saveStillPreview(png, task_id, bucket)]),
    );
    const stills = { still, still_preview };
    progress({ stage: 'loading', progress: stillPart, ...stills });

    for (const [column, path] of paths.entries()) {
      const seed = job.seed + column;
      const { framesDir } = worker;
      const frames = framesDir && existsSync(framesDir) ? join(framesDir, task_id, String(column + 1)) : undefined;
      const onProgress = (part: number, rest: Pick<Progress, 'stage' | 'step' | 'steps'>) =>
        progress({ ...rest, progress: Math.min(1, stillPart + videoPart * (column + part)), ...stills });
      const options = { model, still: fitted, seed, path, framesDir: frames, timed, onProgress, signal };
      const { pictures, ...made } = await makeVideo(job, options);
      warnings.push(...made.warnings);
      onProgress(0.97, { stage: 'uploading' });
      const facts = { seed, width: W, height: H, ...timing };
      uploads.push(upload(() => uploadVideo(`video-${column + 1}`, target, facts, pictures)));
    }

    let grid: JobOutput['grid'];
    if (num_cols > 1) {
      const { width, height } = gridSize(num_cols, W, H);
      progress({ stage: 'encoding', progress: stillPart + videoPart * num_cols, ...stills });
      const options = { width, height, fps, ...describeMp4(job, job.seed, model), signal };
      await timed('encoding', () => writeMp4(join(scratch, 'grid.mp4'), gridFrames(paths, W, H), options));
      grid = await upload(() => uploadMp4('grid', target, { width, height, ...timing }));
    }
    const videos = await Promise.all(uploads);
    signal.throwIfAborted(); // an aborted job leaves nothing, in any stage
    const different = [...new Map(warnings.map((warning) => [JSON.stringify(warning), warning])).values()];
    const { seed, model: name } = job;
    const { timings_ms } = timer;
    const origin = { ...stills, ...(drawn && { pictures: drawn.pictures }), seed, model: name };
    const made = { ...origin, ...(model.device && { device: model.device }) };
    const facts = { ...made, warnings: different, timings_ms, usage: timer.usage() };
    return { videos, ...(grid && { grid }), ...facts };
  } finally {
    await Promise.allSettled(uploads); // their files must exist before they can be deleted
    await rm(scratch, { recursive: true, force: true });
  }
}

/** Width divided by height of a PNG. */
function ratioOf(png: Uint8Array): number {
  const { width, height } = pngSize(png)!;
  return width / height;
}

interface Target {
  bucket: Bucket;
  /** the job's, in the bucket */
  folder: string;
  /** where its MP4s are on the disk */
  scratch: string;
}

/** Uploads an MP4, its poster and its preview. */
async function uploadVideo(
  name: string,
  target: Target,
  facts: Omit<Video, 'key' | 'bytes' | 'sha256'>,
  pictures: Pictures,
): Promise<Video> {
  const put = async (type: string, picture: Promise<Buffer>) => {
    const key = `${target.folder}/${name}.${type}`;
    await target.bucket.put(key, await picture);
    return key;
  };
  const files = [uploadMp4(name, target, facts), put('jpg', pictures.poster!), put('webp', pictures.preview!)] as const;
  await Promise.allSettled(files); // their files must exist before they can be deleted
  const [video, poster, preview] = await Promise.all(files);
  return { ...video, poster, preview };
}

async function uploadMp4<F extends object>(name: string, { bucket, folder, scratch }: Target, facts: F) {
  const key = `${folder}/${name}.mp4`;
  const bytes = await readFile(join(scratch, `${name}.mp4`));
  await bucket.put(key, bytes);
  return { key, bytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex'), ...facts };
}
