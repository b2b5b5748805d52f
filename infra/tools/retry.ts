import { setTimeout } from 'node:timers/promises';
import { SECOND } from '../../core/time.ts';

/** A failure that the next attempt may not have: a broken connection, a busy server. */
export class TransientError extends Error {
  /** The pause that the server asks for, in milliseconds. */
  retryAfter?: number;
}

/** The code or the name of the innermost cause: an error's message may repeat a header or a URL. */
export function reasonOf(error: unknown): string {
  const { code, name, cause } = error as { code?: unknown; name?: string; cause?: unknown };
  if (typeof code === 'string') return code;
  if (name === 'TimeoutError') return 'no answer in time';
  return cause ? reasonOf(cause) : (name ?? 'no reason given');
}

export interface RetryOptions {
  /** Pauses between attempts in milliseconds. The failure after the last one is final. */
  delays: readonly number[];
  log: (line: string) => void;
  /** Bytes received so far. While they grow, the delays start over. */
  received?: () => Promise<number>;
  sleep?: (milliseconds: number) => Promise<unknown>;
}

/** Repeats `attempt` while it throws TransientErrors. */
export async function retry<T>(
  attempt: () => Promise<T>,
  { delays, log, received = async () => 0, sleep = setTimeout }: RetryOptions,
): Promise<T> {
  let most = await received();
  for (let failures = 0; ; failures++) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof TransientError)) throw error;
      const now = await received();
      if (now > most) failures = 0;
      most = Math.max(most, now);
      const delay = delays[failures];
      if (delay === undefined) throw error;
      const pause = error.retryAfter ?? delay;
      log(`${error.message}; next attempt in ${pause / SECOND} s`);
      await sleep(pause);
    }
  }
}
