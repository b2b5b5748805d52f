import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from 'pino';
import { taskFolder } from '../../core/job.ts';
import type { DependencyStatus } from '../../core/responses.ts';
import { SECOND } from '../../core/time.ts';
import { endpoint } from '../http/endpoint.ts';
import { jsonResponse } from '../openapi/parts.ts';

/** A result is reused for this long, so that many requests cause few checks. */
const RESULT_TTL = SECOND;
const TIMEOUT = 3 * SECOND;

const ok = { status: 'ok' };
const failing = (reason: string) => ({ status: 'failing', reason });
const withoutRunPod = { status: 'ready', parts: { store: ok, bucket: ok, runpod: failing('timeout') } };
const withoutStore = { status: 'not_ready', parts: { store: failing('unreachable'), bucket: ok, runpod: ok } };
const stopping = { status: 'stopping' };

export const ready = endpoint({
  method: 'GET',
  path: '/readyz',
  describe: () => ({
    operationId: 'ready',
    tags: ['service'],
    summary: 'Whether requests can be accepted, and the state of each dependency',
    description:
      'Checked at most once a second. Store and disk are checked by writing. The service is ready without RunPod: it stores tasks, and ' +
      'submits them when RunPod is back.',
    responses: {
      200: jsonResponse('Ready', 'Readiness', { 'ready, without RunPod': withoutRunPod }),
      503: jsonResponse('Not ready, or stopping', 'Readiness', { 'no store': withoutStore, 'it stops': stopping }),
    },
  }),
  handle(services) {
    const { store, bucket, disk, runpod, log, uptime } = services;
    let latest: ReturnType<typeof checkAll> | undefined;
    let expires = 0; // Infinity during a check

    async function checkAll() {
      const [storeStatus, bucketStatus, runpodStatus] = await Promise.all([
        check('store', () => store.check(), log),
        check('bucket', () => Promise.all([bucket.has(taskFolder('none')), disk?.check()]), log),
        check('runpod', () => runpod.health(), log),
      ]);
      expires = uptime() + RESULT_TTL;
      const isReady = storeStatus.status === 'ok' && bucketStatus.status === 'ok';
      const parts = { store: storeStatus, bucket: bucketStatus, runpod: runpodStatus };
      return { status: isReady ? 'ready' : 'not_ready', parts };
    }

    return async (c) => {
      if (services.stopping.aborted) return c.json(stopping, 503);
      if (!latest || expires <= uptime()) {
        expires = Infinity;
        latest = checkAll();
      }
      const readiness = await latest;
      return c.json(readiness, readiness.status === 'ready' ? 200 : 503);
    };
  },
});

/** Never rejects. A response after the timeout is ignored. */
async function check(part: string, request: () => Promise<unknown>, log: Logger): Promise<DependencyStatus> {
  const timedOut = delay(TIMEOUT, 'timeout' as const, { ref: false });
  try {
    if ((await Promise.race([request(), timedOut])) !== 'timeout') return { status: 'ok' };
    log.warn({ part, ms: TIMEOUT }, 'readiness check timed out');
    return { status: 'failing', reason: 'timeout' };
  } catch (error) {
    log.warn({ part, error }, 'readiness check failed');
    return { status: 'failing', reason: reasonOf(error) };
  }
}

/** Codes of a full disk: Node's, SQLite's and PostgreSQL's. */
const FULL = /^(ENOSPC|EDQUOT|SQLITE_FULL|53100)$/;
/** Codes of the network's errors, such as ECONNREFUSED, and not of the dependency itself. */
const NETWORK = /^(E[A-Z]+|UND_ERR\w+|TimeoutError)$/;

function reasonOf(error: unknown): 'full' | 'unreachable' | 'error' {
  const { code, cause } = error as { code?: unknown; cause?: { code?: unknown } };
  const codes = [code, cause?.code].map(String);
  if (codes.some((value) => FULL.test(value))) return 'full';
  return codes.some((value) => NETWORK.test(value)) ? 'unreachable' : 'error';
}
