import type { Context } from 'hono';
import { isSized } from '../../../core/frame-size.ts';
import type { Video } from '../../../core/openai-responses.ts';
import { SECOND } from '../../../core/time.ts';
import type { Config } from '../../config.ts';
import { invalidInput, Problem } from '../../http/problem.ts';
import type { Services } from '../../services.ts';
import type { PublicTask } from '../../store/task.ts';
import { formatSeconds } from './translate.ts';

const STATUSES = {
  queued: 'queued',
  running: 'in_progress',
  succeeded: 'completed',
  failed: 'failed',
  canceled: 'failed',
} as const;

/** A task in OpenAI's form. */
export function presentVideo(task: PublicTask, { retain }: Pick<Config, 'retain'>): Video {
  const { id, status, input, created_at, finished_at, error, output } = task;
  const canceled = { code: 'canceled', message: 'the video was canceled' };
  return {
    id,
    object: 'video',
    status: STATUSES[status],
    progress: Math.floor(task.progress * 100),
    model: task.model,
    prompt: input.prompt ?? null,
    seconds: formatSeconds(output?.videos[0]?.seconds ?? input.T / input.fps),
    size: isSized(input) ? `${input.W}x${input.H}` : 'auto',
    created_at: toSeconds(created_at),
    completed_at: finished_at === null ? null : toSeconds(finished_at),
    expires_at: finished_at === null || status !== 'succeeded' ? null : toSeconds(finished_at + retain),
    error: status === 'canceled' ? canceled : error && { code: error.code, message: error.message },
    remixed_from_video_id: null,
    warnings: [...task.warnings, ...(output?.warnings ?? [])],
  };
}

const toSeconds = (ms: number) => Math.floor(ms / SECOND);

export const noSuchVideo = () => new Problem('not_found', 'there is no such video');
export const VIDEO_ERRORS = [noSuchVideo(), invalidInput([{ field: 'id', message: 'must be the id of a video' }])];

/** @returns the task with this id. @throws Problem 404 it belongs to another API key, or its files were deleted */
export async function requireVideo(c: Context, { store }: Pick<Services, 'store'>, id: string): Promise<PublicTask> {
  const task = await store.getPublic(c.get('key').id, id);
  if (!task || task.expired_at !== null) throw noSuchVideo();
  return task;
}
