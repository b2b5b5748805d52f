/** What tools say in text and pictures. Their structured content has every detail. */
import type { Context } from 'hono';
import { contentType } from '../../core/bucket/bucket.ts';
import type { FieldNote } from '../../core/invalid-request.ts';
import type { CostEstimate, PresentedTask } from '../../core/responses.ts';
import { isActive } from '../../core/task-status.ts';
import type { Services } from '../services.ts';
import type { PublicTask } from '../store/task.ts';

export type ToolContent = { type: 'text'; text: string } | { type: 'image'; data: string; mimeType: string };

/** Characters of a prompt or URL. */
const MAX_SOURCE = 200;
/** Bytes. As base64 in a result it stays below the megabyte that clients accept. */
const MAX_PICTURE = 500_000;

/** A task in one line: its state, its source, and the page of its clip. */
export function summarize(
  task: Pick<PresentedTask, 'id' | 'status' | 'input' | 'progress'> & Partial<PresentedTask>,
): string {
  const { id, input, share_link } = task;
  const source = (input.prompt ?? input.image_url ?? input.image)?.slice(0, MAX_SOURCE);
  const page = share_link === undefined ? '' : ` Page that plays it: ${share_link}`;
  return `Task ${id}${source === undefined ? '' : ` (${source})`}: ${describeState(task)}.${page}`;
}

function describeState(task: Parameters<typeof summarize>[0]) {
  const { status, stage, progress, queue_position, eta_seconds, expired_at, error } = task;
  if (expired_at !== undefined) return `${status}; its files were deleted at ${expired_at}`;
  if (error) return `${status}: ${error.message}`;
  const left = eta_seconds === undefined ? '' : `, about ${eta_seconds} s left`;
  if (status === 'queued') return `queued${queue_position === undefined ? '' : `, place ${queue_position}`}${left}`;
  if (status !== 'running') return status;
  return `running, ${stage ?? 'starting'}, ${Math.round(progress * 100)} % done${left}`;
}

/** A task with the links of its videos and its warnings, as text for people and models. */
export function describeTask(task: PresentedTask): string {
  const { status, warnings, videos = [], grid, links_expire_at } = task;
  return [
    summarize(task),
    ...(isActive(status) ? ['For the video call get_task with this id and wait.'] : []),
    ...videos.map(({ link, seconds, width, height }) => `Video, ${round(seconds)} s, ${width}×${height}: ${link}`),
    ...(grid ? [`All videos in one: ${grid.link}`] : []),
    ...(videos.length > 0 ? [`The links expire at ${links_expire_at}; get_task returns new ones.`] : []),
    ...warnings.map(describeWarning),
  ].join('\n');
}

const describeWarning = ({ field, message }: FieldNote) => `Warning: ${field}: ${message}`;

/** @param quote the response of a dry run */
export function describeQuote(quote: { cost_estimate: CostEstimate; warnings: FieldNote[] }): string {
  const { amount, currency, expected_seconds } = quote.cost_estimate;
  const time =
    expected_seconds === undefined ? '' : ` Sampling and decoding probably take ${round(expected_seconds)} s.`;
  return [`This clip costs at most ${amount / 1e6} ${currency}.${time}`, ...quote.warnings.map(describeWarning)].join(
    '\n',
  );
}

const round = (seconds: number) => Math.round(seconds * 10) / 10;

/**
 * A small picture of a task: the first frame of its video, or else its still.
 * @returns an image, or nothing if there is none, it is too large, or the bucket fails: the rest of the result matters more
 */
export async function picturesOf(c: Context, { bucket }: Services, task: PublicTask): Promise<ToolContent[]> {
  if (task.expired_at !== null) return [];
  try {
    for (const key of [task.output?.videos[0]?.poster, task.still_preview]) {
      const bytes = key && (await bucket.get(key, MAX_PICTURE + 1));
      if (key && bytes && bytes.length <= MAX_PICTURE)
        return [{ type: 'image', data: bytes.toString('base64'), mimeType: contentType(key)! }];
    }
  } catch (error) {
    c.get('log').warn({ task: task.id, error }, 'a picture could not be read for a tool');
  }
  return [];
}
