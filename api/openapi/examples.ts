/** Examples that several endpoints show. */
import { contentType } from '../../core/bucket/bucket.ts';
import { JobError } from '../../core/job.ts';
import type { Video } from '../../core/openai-responses.ts';
import type { ModelName } from '../../core/presets.ts';
import { parseRequest } from '../../core/request.ts';
import type { PresentedTask } from '../../core/responses.ts';
import type { Config } from '../config.ts';
import { taskUrls } from '../tasks/present.ts';

/** The configuration that the document shows. */
export type About = Pick<Config, 'limits' | 'bridge' | 'publicUrl'> & { model: ModelName };

export const TASK_ID_EXAMPLE = '019a2f3c-5d1e-7c44-9b7a-0f2d7c3b9e10';
export const WEBHOOK_URL_EXAMPLE = 'https://example.com/hooks/video';
export const PROMPT_REQUEST = { prompt: 'a lighthouse at dawn', seed: 23 };

/** A task in each state, made from a real request's input. */
export function taskExamples({ model, limits, publicUrl }: About) {
  const { input, warnings } = parseRequest(PROMPT_REQUEST, { model, limits, hasImage: false, seed: 23 });
  const { prompt: _prompt, ...withoutPrompt } = input;
  const link = (name: string, query: string) =>
    `${publicUrl}/files/tasks/${TASK_ID_EXAMPLE}/${name}?expires=1764504000&${query}&signature=Zk0q1mS8lqX3v2b7mYc5tA`;
  const queued = {
    id: TASK_ID_EXAMPLE,
    status: 'queued',
    progress: 0,
    created_at: '2025-11-29T12:00:00.414Z',
    model,
    input,
    warnings,
    urls: taskUrls(TASK_ID_EXAMPLE, publicUrl),
  } satisfies PresentedTask;
  const started_at = '2025-11-29T12:00:01.082Z';
  const ended = { ...queued, progress: 1, finished_at: '2025-11-29T12:00:40.770Z' };
  const share_link = `${publicUrl}/clip/${TASK_ID_EXAMPLE}?expires=1764504000&signature=Zk0q1mS8lqX3v2b7mYc5tA`;
  const file = (name: string, filename: string) => ({
    link: link(name, `filename=${filename}`),
    content_type: contentType(name)!,
    filename,
  });
  const still = {
    ...file('still.png', 'a-lighthouse-at-dawn-still.png'),
    preview: file('still.jpg', 'a-lighthouse-at-dawn-still.jpg'),
  };
  const links_expire_at = '2025-11-30T12:00:00.000Z';
  const video = {
    ...file('0b6de5f1-u1/video-1.mp4', 'a-lighthouse-at-dawn-23.mp4'),
    download_link: link('0b6de5f1-u1/video-1.mp4', 'filename=a-lighthouse-at-dawn-23.mp4&download=1'),
    width: input.W!, // a prompt’s size is known
    height: input.H!,
    frames: input.T,
    fps: input.fps,
    seconds: input.T / input.fps,
    bytes: 412_604,
    sha256: '5f2c1be1a8f0e0ad1c3f7a95be0e6a1f0c7d4b2e9a8867735d0c4be1f2a39d06',
    seed: input.seed,
    poster: file('0b6de5f1-u1/video-1.jpg', 'a-lighthouse-at-dawn-23.jpg'),
    preview: file('0b6de5f1-u1/video-1.webp', 'a-lighthouse-at-dawn-23.webp'),
  };
  const cost = { amount: 8_840, currency: 'USD', gpu_seconds: 26, stills: 0 };
  const noCost = { ...cost, amount: 0, gpu_seconds: 0 };
  const { data: error } = new JobError('banned_prompt', 'the image provider refuses this prompt');
  return {
    queued,
    running: {
      ...queued,
      status: 'running',
      stage: 'sampling',
      step: Math.ceil(input.steps / 2),
      steps: input.steps,
      progress: 0.47,
      eta_seconds: 21,
      started_at,
      still,
      links_expire_at,
    },
    succeeded: {
      ...{ ...ended, status: 'succeeded', started_at, still, videos: [video], share_link, links_expire_at, cost },
      ...(model !== 'camera' && { device: 'cuda' }),
    },
    failed: { ...ended, status: 'failed', started_at, error, cost: noCost },
    canceled: { ...ended, status: 'canceled', cost: noCost },
    deleted: {
      ...ended,
      status: 'succeeded',
      started_at,
      input: withoutPrompt,
      expired_at: '2025-11-29T13:00:00.000Z',
      cost,
    },
  } satisfies Record<string, PresentedTask>;
}

/** The same in OpenAI's form. */
export function videoExamples({ queued, failed }: ReturnType<typeof taskExamples>) {
  const { W, H, T, fps, prompt } = queued.input;
  const video = {
    id: TASK_ID_EXAMPLE,
    object: 'video',
    status: 'queued',
    progress: 0,
    model: queued.model,
    prompt: prompt!,
    seconds: String(T / fps),
    size: `${W}x${H}`,
    created_at: 1_764_417_600,
    completed_at: null,
    expires_at: null,
    error: null,
    remixed_from_video_id: null,
    warnings: [],
  } satisfies Video;
  const { code, message } = failed.error;
  const completed_at = video.created_at + 40;
  return {
    queued: video,
    in_progress: { ...video, status: 'in_progress', progress: 47 },
    completed: { ...video, status: 'completed', progress: 100, completed_at, expires_at: completed_at + 30 * 86_400 },
    failed: { ...video, status: 'failed', completed_at, error: { code, message } },
  } satisfies Record<string, Video>;
}
