/** Links to the page of a clip. They are signed with a secret of the task alone, which all replicas read from the store. */
import { isLinkValid, signLink } from '../../core/link-signature.ts';
import type { Task } from '../store/task.ts';

type Shared = Pick<Task, 'id' | 'share_secret'>;
const targetOf = ({ id }: Shared) => `clip/${id}`;

/** @param expires seconds since 1970 @returns undefined for a task without the secret */
export const shareLink = (task: Shared, expires: number, publicUrl: string): string | undefined =>
  task.share_secret === null
    ? undefined
    : `${publicUrl}/${targetOf(task)}?expires=${expires}&signature=${signLink(task.share_secret, targetOf(task), expires)}`;

/** @param now milliseconds since 1970 */
export const isShared = (task: Shared, query: Parameters<typeof isLinkValid>[2], now: number): boolean =>
  task.share_secret !== null && isLinkValid(task.share_secret, targetOf(task), query, now);
