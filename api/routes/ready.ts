import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from 'pino';
import { taskFolder } from '../../core/job.ts';
import { SECOND } from '../../core/time.ts';
import { endpoint } from '../http/endpoint.ts';
import { json, object, ref } from '../openapi/parts.ts';

/** A result is reused for this long, so that many requests cause few checks. */
const RESULT_TTL = SECOND;
const TIMEOUT = 3 * SECOND;

/** `error`: the dependency responds with an error, such as a wrong key or a missing bucket. The log has details. */
type DependencyStatus = { status: 'ok' } | { status: 'failing'; reason: 'timeout' | 'unreachable' | 'error' };

interface Readiness {
  status: 'ready' | 'not_ready';
  parts: Record<'store' | 'bucket' | 'runpod', DependencyStatus>;
}

const dependency = object(
  {
    status: { type: 'string', enum: ['ok', 'failing'] },
    reason: {
      type: 'string',
      enum: ['timeout', 'unreachable', 'error'],
      description: 'error: it responds with an error; the log has details',
    },
  },
  ['status'],
);
const ok = { status: 'ok' } as const;
const withoutRunPod: Readiness = {
  status: 'ready',
  parts: { store: ok, bucket: ok, runpod: { status: 'failing', reason: 'timeout' } },
};
const withoutStore: Readiness = {
  status: 'not_ready',
  parts: { store: { status: 'failing', reason: 'unreachable' }, bucket: ok, runpod: ok },
};
const stopping = { status: 'stopping' };

export const ready = endpoint({
  method: 'GET',
  path: '/readyz',
  schemas: {
    Readiness: object(
      {
        status: { type: 'string', enum: ['ready', 'not_ready', 'stopping'] },
        parts: object({ store: dependency, bucket: dependency, runpod: dependency }),
      },
      ['status'],
    ),
  },
  describe: () => ({
    operationId: 'ready',
    tags: ['service'],
    summary: 'Whether requests can be accepted, and the state of each dependency',
    description:
      'Checked at most once a second. The service is ready without RunPod: it stores tasks, and submits them when RunPod is back.',
    responses: {
      200: { description: 'Ready', content: json(ref('Readiness'), { 'ready, without RunPod': withoutRunPod }) },
      503: {
        description: 'Not ready, or stopping',
        content: json(ref('Readiness'), { 'no store': withoutStore, 'it stops': stopping }),
      },
    },
  }),
  handle(services) {
    const { store, bucket, runpod, log, now } = services;
    let latest: { result: Promise<Readiness>; expires: number } | undefined;

    async function checkAll(): Promise<Readiness> {
      const [storeStatus, bucketStatus, runpodStatus] = await Promise.all([
        check('store', () => store.check(), log),
        check('bucket', () => bucket.has(taskFolder('none')), log),
        check('runpod', () => runpod.health(), log),
      ]);
      const isReady = storeStatus.status === 'ok' && bucketStatus.status === 'ok';
      return {
        status: isReady ? 'ready' : 'not_ready',
        parts: { store: storeStatus, bucket: bucketStatus, runpod: runpodStatus },
      };
    }

    return async (c) => {
      if (services.stopping.aborted) return c.json(stopping, 503);
      if (!latest || latest.expires <= now()) {
        const current = { result: checkAll(), expires: Infinity };
        latest = current;
        void current.result.then(() => {
          current.expires = now() + RESULT_TTL;
        });
      }
      const readiness = await latest.result;
      return c.json(readiness, readiness.status === 'ready' ? 200 : 503);
    };
  },
});

/** Never rejects. A response after the timeout is ignored. */
async function check(part: string, request: () => Promise<unknown>, log: Logger): Promise<DependencyStatus> {
  const timer = new AbortController();
  try {
    const outcome = await Promise.race([
      request().then(() => 'ok' as const),
      delay(TIMEOUT, 'timeout' as const, { signal: timer.signal }),
    ]);
    if (outcome === 'ok') return { status: 'ok' };
    log.warn({ part, ms: TIMEOUT }, 'readiness check timed out');
    return { status: 'failing', reason: 'timeout' };
  } catch (error) {
    log.warn({ part, error }, 'readiness check failed');
    return { status: 'failing', reason: isUnreachable(error) ? 'unreachable' : 'error' };
  } finally {
    timer.abort();
  }
}

/** Whether the error comes from the network, such as ECONNREFUSED, and not from the dependency itself. */
function isUnreachable(error: unknown): boolean {
  const { code, cause } = error as { code?: unknown; cause?: { code?: unknown } };
  return [code, cause?.code].some(
    (value) => typeof value === 'string' && /^(E[A-Z]+|UND_ERR\w+|TimeoutError)$/.test(value),
  );
}
