/** One job: still → latents → frames → MP4 → bucket. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import * as v from 'valibot';
import { type Bucket, getJson, StorageError } from '../core/bucket/bucket.ts';
import { noiseLevels } from '../core/discretization.ts';
import { guidanceScales, withGuidance } from '../core/guider.ts';
import {
  JobError,
  type JobInput,
  type JobOutput,
  jobErrorSchema,
  jobSchema,
  outputSchema,
  type Progress,
  type Stage,
  type TIMED_STAGES,
  taskFolder,
} from '../core/job.ts';
import type { Log } from '../core/log.ts';
import { createMutex } from '../core/mutex.ts';
import type { ModelName } from '../core/presets.ts';
import { createScratchFolder } from '../core/temp-files.ts';
import { beginAttempt, clearAttempts } from './attempts.ts';
import type { Clip, Model } from './models/model.ts';
import { sample } from './sampling/samplers.ts';
import { type Generator, generator } from './sampling/torch-random.ts';
import { fitStill } from './still/fit.ts';
import type { Bridge } from './still/midjourney/bridge.ts';
import { prepareStill, stillKey } from './still/still.ts';
import { gridFrames, gridSize } from './video/grid.ts';
import { type Mp4Options, writeMp4 } from './video/mp4.ts';

/** What a worker has at hand for its jobs. */
export interface Worker {
  modelName: ModelName;
  model: Model;
  bucket: Bucket;
  /** asked in this order for the still of a prompt; may be none */
  bridges: readonly Bridge[];
  allowPrivate: boolean;
  /** milliseconds */
  stillTimeout: number;
  /** while this folder exists, every decoded frame is kept in it: <folder>/<task id>/<video>/0001.png … */
  framesDir: string | undefined;
}

/** One job in a worker's hands. */
export interface JobContext {
  jobId: string;
  progress: (progress: Progress) => void;
  signal: AbortSignal;
  /** told of each stage when it begins (debug), and when it ends how many milliseconds it took (info) */
  log?: Pick<Log, 'debug' | 'info'>;
}

// A process has one GPU, or its processor in place of it: of the jobs in hand one makes a video, while others wait for their turn, for a
// still or for the bucket.
const enterGpu = createMutex();

/** What result.json holds. */
const resultSchema = v.union([v.object({ output: outputSchema }), v.object({ error: jobErrorSchema })]);
type Result = v.InferOutput<typeof resultSchema>;

/**
 * @param raw a job's input, not yet checked
 * @throws JobError; whatever else is thrown is the worker's fault
 */
export async function runJob(raw: unknown, worker: Worker, context: JobContext): Promise<JobOutput> {
  const job = parseJob(raw, worker.modelName);
  try {
    return await attempt(job, worker, context);
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
    throw new JobError('storage_error', 'the bucket could not be used; the worker’s log says why', { cause: error });
  }
}

async function attempt(job: JobInput, worker: Worker, context: JobContext): Promise<JobOutput> {
  const { bucket } = worker;
  const { task_id } = job;
  const earlier = await readResult(bucket, task_id);
  if (earlier) {
    // Whoever made it, and whoever was at this job before, may have been killed before it could.
    await clearUp(bucket, task_id, [context.jobId]).catch(leave);
    return outputOf(earlier);
  }

  const folder = `${taskFolder(task_id)}/${context.jobId}`;
  const scratch = await createScratchFolder();
  let end = async () => {};
  let hasResult = false;
  try {
    end = await beginAttempt(bucket, task_id, context.jobId);
    const output = await makeVideos(job, folder, scratch, worker, context);
    const result = await finish(bucket, task_id, folder, { output });
    hasResult = true;
    return result;
  } catch (error) {
    await discard(bucket, task_id, folder).catch(leave);
    if (error instanceof JobError && !error.data.retryable && error.code !== 'canceled') {
      hasResult = true;
      return await finish(bucket, task_id, folder, { error: error.data }); // so that a second job does not try again
    }
    // Another job may have been quicker: then its result counts, and this one's files may have been deleted under its hands.
    const other = await readResult(bucket, task_id).catch(leave);
    if (!other) throw error;
    return outputOf(other);
  } finally {
    await rm(scratch, { recursive: true, force: true });
    await end().catch(leave);
    if (hasResult) await clearUp(bucket, task_id).catch(leave);
  }
}

/** Where the bucket can't be reached, litter stays until the task's folder goes; how the job ended matters more. */
function leave(error: unknown) {
  if (!(error instanceof StorageError)) throw error;
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

/** What an earlier job of the task ended with, if one has. */
async function readResult(bucket: Bucket, taskId: string): Promise<Result | undefined> {
  const found = await getJson(bucket, `${taskFolder(taskId)}/result.json`);
  return found === undefined ? undefined : v.parse(resultSchema, found);
}

/** @throws JobError: the error that was stored */
function outputOf(result: Result): JobOutput {
  if ('error' in result) throw new JobError(result.error.code, result.error.message);
  return result.output;
}

/** The first job of a task to finish decides its result; a later one throws its own files away and answers the same. */
async function finish(bucket: Bucket, taskId: string, folder: string, result: Result): Promise<JobOutput> {
  if (await bucket.create(`${taskFolder(taskId)}/result.json`, JSON.stringify(result))) return outputOf(result);
  await discard(bucket, taskId, folder);
  return outputOf((await readResult(bucket, taskId))!);
}

/** Throws a job's files away, unless they are the result: RunPod may give one job to two workers, and then both have one folder. */
async function discard(bucket: Bucket, taskId: string, folder: string): Promise<void> {
  const winner = await readResult(bucket, taskId);
  const isWinner = winner && 'output' in winner && winner.output.videos.some(({ key }) => key.startsWith(`${folder}/`));
  if (!isWinner) await bucket.delete(folder);
}

/** A task with a result needs no memory of its attempts, nor anything of other jobs: whoever is still at one will answer the same. */
async function clearUp(bucket: Bucket, taskId: string, jobs: string[] = []): Promise<void> {
  for (const job of new Set([...jobs, ...(await clearAttempts(bucket, taskId))]))
    await discard(bucket, taskId, `${taskFolder(taskId)}/${job}`);
}

async function makeVideos(
  job: JobInput,
  folder: string,
  scratch: string,
  worker: Worker,
  { progress, signal, log }: JobContext,
): Promise<JobOutput> {
  const { bucket, model } = worker;
  const { W, H, T, fps, num_cols } = job;
  const timings_ms: Record<string, number> = {};
  const warnings = new Map<string, JobOutput['warnings'][number]>(); // each once, whichever videos it is about
  async function timed<R>(stage: (typeof TIMED_STAGES)[number], work: () => Promise<R>): Promise<R> {
    signal.throwIfAborted();
    if (uploadFailure) throw uploadFailure;
    const start = performance.now();
    log?.debug({ stage }, 'stage started');
    const result = await work();
    const ms = Math.round(performance.now() - start);
    timings_ms[stage] = (timings_ms[stage] ?? 0) + ms;
    log?.info({ stage, ms }, 'stage ended');
    return result;
  }

  let uploadFailure: unknown;
  /** Goes on while the next video is made; a failure ends the job at its next stage. */
  function upload<F extends object>(name: string, path: string, facts: F) {
    const uploading = timed('uploading', async () => {
      const key = `${folder}/${name}`;
      const bytes = await readFile(path);
      await bucket.putFile(key, path);
      return { key, bytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex'), ...facts };
    });
    uploading.catch((error) => {
      uploadFailure ??= error;
    });
    return uploading;
  }

  model.check(job); // before a bridge is paid for the still

  // Shares of the whole, for the progress bar: a bridge takes long, a picture at hand does not.
  const stillShare = job.prompt === undefined ? 0.05 : 0.4;
  progress({ stage: 'still', progress: 0 });
  const png = await timed('still', () =>
    prepareStill(job, {
      ...worker,
      onProgress: (part) => progress({ stage: 'still', progress: part * stillShare }),
      log,
      signal,
    }),
  );
  const still = stillKey(job.task_id);
  progress({ stage: 'loading', progress: stillShare, still });
  const fitted = await timed('loading', () => fitStill(png, job, model.stillScale));

  const share = (1 - stillShare) / (num_cols + (num_cols > 1 ? 0.5 : 0)); // of one video; the grid counts half
  const uploads: Promise<JobOutput['videos'][number]>[] = [];
  /** Samples and decodes one video, and begins to upload it. */
  async function makeVideo(column: number, path: string): Promise<void> {
    const seed = job.seed + column;
    const report = (stage: Stage, part: number, step?: { step: number; steps: number }) =>
      progress({ stage, progress: Math.min(1, stillShare + share * (column + part)), still, ...step });

    const { randn } = generator(seed); // first for what the model draws, then for the latents, as in the reference
    const leaveGpu = await timed('waiting', () => enterGpu(signal));
    const clip = await timed('loading', () => model.open({ ...job, still: fitted, randn, signal })).catch((error) => {
      leaveGpu();
      throw error;
    });
    const close = () => clip.close().finally(leaveGpu);
    try {
      const latents = await timed('sampling', () =>
        sampleLatents(clip, job, randn, signal, (step) =>
          report('sampling', (model.samplingShare * step) / job.steps, { step, steps: job.steps }),
        ),
      );
      const decodeShare = 0.95 - model.samplingShare;
      await timed('decoding', () => {
        const onFrame = (frame: number) =>
          report('decoding', model.samplingShare + (decodeShare * frame) / T, { step: frame, steps: T });
        let frames: AsyncIterable<Uint8Array> = observe(clip.decode(latents), onFrame, close);
        const { framesDir } = worker;
        if (framesDir && existsSync(framesDir)) {
          frames = keepFrames(frames, join(framesDir, job.task_id, String(column + 1)), job);
        }
        return writeMp4(path, frames, { width: W, height: H, fps, ...describe(job, seed, model), signal });
      });
    } finally {
      await close();
    }
    for (const { field, message } of clip.warnings) warnings.set(`${field} ${message}`, { field, message });
    report('uploading', 0.97);
    const facts = { seed, width: W, height: H, frames: T, fps, seconds: T / fps };
    uploads.push(upload(`video-${column + 1}.mp4`, path, facts));
  }

  const paths = Array.from({ length: num_cols }, (_, column) => join(scratch, `video-${column + 1}.mp4`));
  try {
    for (const [column, path] of paths.entries()) await makeVideo(column, path);
    const grid = num_cols > 1 ? await makeGrid() : undefined;
    const videos = await Promise.all(uploads);
    signal.throwIfAborted(); // a job that is stopped leaves nothing, whichever stage it has come to
    const { seed, model: name } = job;
    return { videos, ...(grid && { grid }), still, seed, model: name, warnings: [...warnings.values()], timings_ms };
  } finally {
    await Promise.allSettled(uploads); // whoever clears up after a failure must find what they leave
  }

  /** The finished videos side by side. */
  async function makeGrid(): Promise<NonNullable<JobOutput['grid']>> {
    const { width, height } = gridSize(num_cols, W, H);
    const path = join(scratch, 'grid.mp4');
    progress({ stage: 'encoding', progress: stillShare + share * num_cols, still });
    await timed('encoding', () =>
      writeMp4(path, gridFrames(paths, W, H), { width, height, fps, ...describe(job, job.seed, model), signal }),
    );
    return upload('grid.mp4', path, { width, height, frames: T, fps, seconds: T / fps });
  }
}

/** Latents of one video: noise, brought down the noise levels by the sampler. */
async function sampleLatents(
  clip: Clip,
  job: JobInput,
  randn: Generator['randn'],
  signal: AbortSignal,
  onStep: (step: number) => void,
) {
  const noise = randn(clip.shape.reduce((product, size) => product * size, 1));
  const denoise = withGuidance(clip.denoise, guidanceScales(job.T, job));
  const latents = await sample({ denoise, noise, sigmas: noiseLevels(job.steps, job), randn, signal, onStep }, job);
  if (!latents.every(Number.isFinite)) {
    const message =
      'with these numbers sampling overflows: bring sigma_max, s_noise, order or the guidance scales down';
    throw new JobError('invalid_input', message);
  }
  return latents;
}

/** @param onEnd called when the last frame is decoded; an encoder then still works at those that it holds back to look ahead */
async function* observe(
  frames: AsyncIterable<Uint8Array>,
  onFrame: (count: number) => void,
  onEnd: () => Promise<void>,
) {
  let count = 0;
  for await (const frame of frames) {
    yield frame;
    onFrame(++count);
  }
  await onEnd();
}

/** Writes every frame as an 8-bit PNG on its way to the encoder. */
async function* keepFrames(frames: AsyncIterable<Uint8Array>, folder: string, { W, H }: JobInput) {
  await mkdir(folder, { recursive: true });
  let count = 0;
  for await (const frame of frames) {
    const path = join(folder, `${String(++count).padStart(4, '0')}.png`);
    await sharp(frame, { raw: { width: W, height: H, channels: 3 } })
      .png()
      .toFile(path);
    yield frame;
  }
}

/** What the file may tell of itself: model, seed and numbers, no ids, dates, addresses or prompts; and whether a network made it. */
function describe(job: JobInput, seed: number, { generative }: Model): Pick<Mp4Options, 'metadata' | 'madeByAi'> {
  const numbers = Object.entries(job).filter((entry): entry is [string, number] => typeof entry[1] === 'number');
  return { metadata: { model: job.model, ...Object.fromEntries(numbers), seed }, madeByAi: generative };
}
