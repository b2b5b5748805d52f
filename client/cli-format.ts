/** What the command line prints. */
import { formatBytes, formatCount } from '../core/format.ts';
import { isActive } from '../core/task-status.ts';
import type { ApiError, Task, Usage } from './index.ts';

export const formatJson = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`;

/** All of an amount: prices are small. */
export const formatAmount = (microUnits: number, currency: string) => `${microUnits / 1e6} ${currency}`;

export function formatTask(task: Task): string {
  const { id, status, stage, step, steps, progress, eta_seconds, error, videos = [], grid, expired_at, cost } = task;
  const count = step === undefined ? '' : ` ${step} of ${steps}`;
  const left = eta_seconds === undefined ? '' : `, about ${eta_seconds} s left`;
  const place = task.queue_position === undefined ? '' : `: number ${task.queue_position} in the queue${left}`;
  const state = isActive(status) && stage ? `: ${stage}${count}, ${Math.round(progress * 100)} %${left}` : place;
  const files = (grid ? [grid, ...videos] : videos).map(
    ({ link, width, height, frames, fps, bytes }) =>
      `${link}\n  ${width}×${height}, ${formatCount(frames, 'frame')} at ${fps} fps, ${formatBytes(bytes)}\n`,
  );
  return [
    `${id} ${status}${state}${error ? `: ${error.message} (${error.code})` : ''}\n`,
    ...files,
    expired_at ? `the files were deleted on ${expired_at}\n` : '',
    cost && cost.amount > 0 ? `cost: ${formatAmount(cost.amount, cost.currency)}\n` : '',
  ].join('');
}

/** For --quiet: only the link, or how the task is. */
export function formatQuiet({ id, status, grid, videos, error }: Task): string {
  if (videos) return `${(grid ?? videos[0]!).link}\n`;
  return error ? `${error.message} (${error.code})\n` : `${id} ${status}\n`;
}

/** One line of a list. */
export function formatLine({ id, status, created_at, expired_at, input }: Task): string {
  const kept =
    input.prompt ?? input.image_url ?? input.image ?? (input.still_of ? `still of ${input.still_of}` : 'a picture');
  const source = expired_at ? 'deleted' : kept;
  return `${id}  ${status.padEnd(9)}  ${created_at.slice(0, 19)}Z  ${source.replace(/\s+/g, ' ').slice(0, 60)}\n`;
}

export function formatUsage({ currency, month, budget, spent, reserved, left, open_tasks, days }: Usage): string {
  const amount = (microUnits: number) => formatAmount(microUnits, currency);
  const limit = budget === null ? 'no budget' : `${amount(left!)} left of ${amount(budget)}`;
  const lines = days.map(
    ({ day, tasks, succeeded, amount: cost, gpu_seconds }) =>
      `${day}  ${formatCount(tasks, 'task')}, ${succeeded} succeeded, ${gpu_seconds} s of GPU, ${amount(cost)}\n`,
  );
  const tasks = `${amount(reserved)} reserved for active tasks (${open_tasks})`;
  return [`${month}: ${amount(spent)} spent, ${tasks}; ${limit}\n`, ...lines].join('');
}

/** The message of an error, in terms of flags, with advice. */
export function formatError({ errors, message, status, code }: ApiError): string {
  const problems = errors.map(({ field, message }) => `--${field}: ${message}`);
  const text = problems.length > 0 ? problems.join('\n') : message;
  if (status === 0) return `${text}; check that the service runs, and --url (or IMG2VID_URL)`;
  return code === 'unauthorized' ? `${text} (--key, or IMG2VID_API_KEY)` : text;
}
