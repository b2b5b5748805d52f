import { setTimeout as delay } from 'node:timers/promises';
import { Hono } from 'hono';
import { taskFolder } from '../../core/job.ts';
import { SECOND } from '../../core/time.ts';
import type { Services } from '../services.ts';

/** How long an outcome is good for: a flood of questions asks the parts nothing more. */
const KEPT = SECOND;

/** `error`: it answers, but not as it should, as where a key is wrong or a bucket is missing. The log says more. */
type Part = { status: 'ok' } | { status: 'failing'; reason: 'timeout' | 'unreachable' | 'error' };

export interface Readiness {
  status: 'ready' | 'not_ready';
  parts: Record<'store' | 'bucket' | 'runpod', Part>;
}

/**
 * GET /readyz: whether requests can be taken, and how each part does. RunPod's absence keeps nobody out: tasks are stored, and sent
 * when it is back.
 * @param patience milliseconds that a part may take
 */
export function ready(
  {
    store,
    bucket,
    runpod,
    log,
    stopping,
    now,
  }: Pick<Services, 'store' | 'bucket' | 'runpod' | 'log' | 'stopping' | 'now'>,
  { patience = 3 * SECOND } = {},
) {
  let asked: { outcome: Promise<Readiness>; until: number } | undefined;

  return new Hono().get('/readyz', async (c) => {
    if (stopping.aborted) return c.json({ status: 'stopping' }, 503);
    if (!asked || asked.until <= now()) {
      const asking = { outcome: ask(), until: Infinity };
      asked = asking;
      void asking.outcome.then(() => {
        asking.until = now() + KEPT;
      });
    }
    const readiness = await asked.outcome;
    return c.json(readiness, readiness.status === 'ready' ? 200 : 503);
  });

  async function ask(): Promise<Readiness> {
    const [inStore, inBucket, atRunPod] = await Promise.all([
      look('store', () => store.check()),
      look('bucket', () => bucket.has(taskFolder('none'))),
      look('runpod', () => runpod.health()),
    ]);
    const isReady = inStore.status === 'ok' && inBucket.status === 'ok';
    return { status: isReady ? 'ready' : 'not_ready', parts: { store: inStore, bucket: inBucket, runpod: atRunPod } };
  }

  /** Never rejects. What comes of a question after the patience is over is not heard. */
  async function look(part: string, question: () => Promise<unknown>): Promise<Part> {
    const late = new AbortController();
    try {
      const answer = await Promise.race([
        question().then(() => 'ok' as const),
        delay(patience, 'timeout' as const, { signal: late.signal }),
      ]);
      if (answer === 'ok') return { status: 'ok' };
      log.warn({ part, ms: patience }, 'a part has not answered whether it is ready');
      return { status: 'failing', reason: 'timeout' };
    } catch (error) {
      log.warn({ part, error }, 'a part is not ready');
      return { status: 'failing', reason: isUnreachable(error) ? 'unreachable' : 'error' };
    } finally {
      late.abort();
    }
  }
}

/** Whether it is the network's error, such as ECONNREFUSED, and not the part's own. */
function isUnreachable(error: unknown): boolean {
  const { code, cause } = error as { code?: unknown; cause?: { code?: unknown } };
  return [code, cause?.code].some(
    (word) => typeof word === 'string' && /^(E[A-Z]+|UND_ERR\w+|TimeoutError)$/.test(word),
  );
}
