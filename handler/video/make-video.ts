/** One video: still → clip → latents → frames → MP4. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { noiseLevels } from '../../core/discretization.ts';
import { guidanceInterval, guidanceScales, withGuidance } from '../../core/guider.ts';
import { JobError, type JobOutput, type Progress, type SizedJob } from '../../core/job.ts';
import { lockGpu } from '../gpu-lock.ts';
import type { Clip, Model, Still } from '../models/model.ts';
import { type Sampling, sample } from '../sampling/samplers.ts';
import { generator } from '../sampling/torch-random.ts';
import type { Timed } from '../stage-timer.ts';
import { writeMp4 } from './mp4.ts';
import { type Pictures, withPictures } from './preview.ts';

interface VideoOptions {
  model: Model;
  still: Still;
  seed: number;
  /** where the MP4 is written */
  path: string;
  /** where every decoded frame is kept as a PNG */
  framesDir: string | undefined;
  timed: Timed;
  /** `part` is the finished part of this video, 0–1 */
  onProgress: (part: number, progress: Pick<Progress, 'stage' | 'step' | 'steps'>) => void;
  signal: AbortSignal;
}

/** @returns the model's warnings, and the video's pictures. @throws JobError */
export async function makeVideo(
  job: SizedJob,
  options: VideoOptions,
): Promise<{ warnings: JobOutput['warnings']; pictures: Pictures }> {
  const { model, still, seed, path, framesDir, timed, onProgress, signal } = options;
  const { W, H, T, fps, steps } = job;
  const { randn } = generator(seed); // first for what the model draws, then for the latents, as in the reference
  const unlockGpu = await timed('waiting', () => lockGpu(signal));
  const clip = await timed('loading', () => model.open({ ...job, still, randn, signal })).catch((error) => {
    unlockGpu();
    throw error;
  });
  const close = () => clip.close().finally(unlockGpu);
  const pictures: Pictures = {};
  try {
    const onStep = (step: number) =>
      onProgress((model.samplingShare * step) / steps, { stage: 'sampling', step, steps });
    const latents = await timed('sampling', () => {
      onStep(0); // one step may take minutes, and its GPU time counts from here
      return sampleLatents(clip, job, { randn, signal, onStep });
    });
    const decodingShare = 0.95 - model.samplingShare;
    await timed('decoding', () => {
      const onFrame = (step: number) =>
        onProgress(model.samplingShare + (decodingShare * step) / T, { stage: 'decoding', step, steps: T });
      let frames = withPictures(withProgress(clip.decode(latents), onFrame, close), job, pictures);
      if (framesDir) frames = keepFrames(frames, framesDir, job);
      return writeMp4(path, frames, { width: W, height: H, fps, ...describeMp4(job, seed, model), signal });
    });
  } finally {
    await close();
  }
  return { warnings: clip.warnings, pictures };
}

/** Latents of one video: noise that the sampler brings down the noise levels. */
export async function sampleLatents(clip: Clip, job: SizedJob, options: Pick<Sampling, 'randn' | 'signal' | 'onStep'>) {
  const noise = options.randn(clip.shape.reduce((product, size) => product * size, 1));
  const denoise = withGuidance(clip.denoise, guidanceScales(job.T, job), guidanceInterval(job));
  const latents = await sample({ denoise, noise, sigmas: noiseLevels(job.steps, job), ...options }, job);
  if (latents.every(Number.isFinite)) return latents;
  throw new JobError(
    'invalid_input',
    'sampling overflows with these values; lower sigma_max, s_noise, order or the guidance scales',
  );
}

/** @param onEnd called after the last frame: the encoder still works then, on the frames that it holds for its look-ahead */
async function* withProgress(
  frames: AsyncIterable<Uint8Array>,
  onFrame: (count: number) => void,
  onEnd: () => Promise<void>,
): AsyncIterable<Uint8Array> {
  let count = 0;
  for await (const frame of frames) {
    yield frame;
    onFrame(++count);
  }
  await onEnd();
}

/** Writes every frame to `folder` as an 8-bit PNG, 0001.png and so on, on its way to the encoder. */
async function* keepFrames(frames: AsyncIterable<Uint8Array>, folder: string, { W, H }: SizedJob) {
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

/** What an MP4 says about itself: model, seed and numbers, but no ids, dates, URLs or prompts; and whether a network made it. */
export function describeMp4(job: SizedJob, seed: number, { generative }: Model) {
  const numbers = Object.entries(job).filter((entry): entry is [string, number] => typeof entry[1] === 'number');
  return { metadata: { model: job.unet ?? job.model, ...Object.fromEntries(numbers), seed }, madeByAi: generative };
}
