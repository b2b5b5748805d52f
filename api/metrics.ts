/**
 * What is counted and timed, for Prometheus (GET /metrics). Each process tells its own; what all of them share, such as the tasks in the
 * store, each tells in full. A label has few values, all of them known here: no caller's and no worker's word becomes one. The one
 * importer of prom-client.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from 'pino';
// biome-ignore lint/style/noRestrictedImports: This module is the only importer of prom-client.
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import { ERROR_CODES, TIMED_STAGES } from '../core/job.ts';
import { ENDED_STATUSES } from '../core/responses.ts';
import { SECOND } from '../core/time.ts';
import { UnansweredError } from './runpod.ts';
import type { Task } from './store/task.ts';

const MINUTE = 60; // seconds, from here on
const HOUR = 60 * MINUTE;

const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'];
/** The pattern that Hono tells where there is no route. */
const NO_ROUTE = '/*';

const ATTEMPTS = ['delivered', 'refused', 'unreachable', 'exhausted'] as const;
/** What came of one attempt to deliver a webhook. `exhausted`: it failed, and there is no further attempt. */
export type AttemptOutcome = (typeof ATTEMPTS)[number];

/** Histograms' bounds, in seconds. */
const BUCKETS = {
  http: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, MINUTE], // Prefer: wait takes up to a minute
  task: [1, 2, 5, 10, 30, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 30 * MINUTE, HOUR, 6 * HOUR, 24 * HOUR],
  stage: [0.1, 0.5, 1, 2, 5, 10, 20, 30, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 30 * MINUTE],
  webhook: [0.1, 0.5, 1, 5, 10, 30, MINUTE, 10 * MINUTE, HOUR, 6 * HOUR, 24 * HOUR, 72 * HOUR],
  runpod: [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
  store: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30],
};

export type Metrics = ReturnType<typeof createMetrics>;

/** @param patience how long a gauge's values may take to be read, in milliseconds: Prometheus waits 10 s for all of them */
export function createMetrics(log: Logger, { patience = 3 * SECOND } = {}) {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry }); // of the process, under the names that all Node programs have

  const common = (name: string, help: string) => ({ name: `img2vid_${name}`, help, registers: [registry] });
  const counter = <L extends string>(name: string, help: string, labelNames: L[]) =>
    new Counter({ ...common(name, help), labelNames });
  const histogram = <L extends string>(name: string, help: string, labelNames: L[], buckets: number[]) =>
    new Histogram({ ...common(name, help), labelNames, buckets });

  const requests = counter('http_requests_total', 'Responses, by route pattern', ['method', 'route', 'status']);
  const requestSeconds = histogram(
    'http_request_duration_seconds',
    'From a request to the end of its response',
    ['method', 'route'],
    BUCKETS.http,
  );
  const ends = counter('tasks_ended_total', 'Tasks that have ended; code is empty unless they failed', [
    'status',
    'code',
  ]);
  const taskSeconds = histogram('task_seconds', 'From a task’s creation to its end', ['status'], BUCKETS.task);
  const stageSeconds = histogram(
    'stage_seconds',
    'Of tasks that succeeded, as the worker measured it; waiting: for the GPU',
    ['stage'],
    BUCKETS.stage,
  );
  const attempts = counter('webhook_attempts_total', 'Attempts to deliver a webhook', ['outcome']);
  const webhookLag = histogram(
    'webhook_lag_seconds',
    'From a task’s end until its webhook was delivered',
    [],
    BUCKETS.webhook,
  );
  const runpodRequests = counter('runpod_requests_total', 'Requests to RunPod; unanswered: there may be a job', [
    'operation',
    'outcome',
  ]);
  const runpodSeconds = histogram('runpod_request_seconds', 'Requests to RunPod', ['operation'], BUCKETS.runpod);
  const storeSeconds = histogram('store_seconds', 'Store calls', ['operation'], BUCKETS.store);
  const storeErrors = counter('store_errors_total', 'Store calls that failed', ['operation']);

  // What is rare is there from the beginning, so that the first time shows as an increase.
  for (const status of ENDED_STATUSES) if (status !== 'failed') ends.inc({ status, code: '' }, 0);
  for (const code of Object.keys(ERROR_CODES)) ends.inc({ status: 'failed', code }, 0);
  for (const outcome of ATTEMPTS) attempts.inc({ outcome }, 0);

  /** @throws Error if it takes too long */
  async function inTime<T>(reading: Promise<T>): Promise<T> {
    const late = new AbortController();
    const over = delay(patience, undefined, { signal: late.signal }).then(() => {
      throw new Error(`no answer within ${patience} ms`);
    });
    try {
      return await Promise.race([reading, over]);
    } finally {
      late.abort();
    }
  }

  return {
    contentType: registry.contentType,

    /** All of them, in Prometheus' text format. */
    text: (): Promise<string> => registry.metrics(),

    /** @param request its `route` is a pattern, never an address; `ms`: until its answer had ended, or broken off */
    observeRequest({ method, route, status, ms }: { method: string; route: string; status: number; ms: number }): void {
      const labels = {
        method: METHODS.includes(method) ? method : 'other',
        route: route === NO_ROUTE ? 'unknown' : route,
      };
      requests.inc({ ...labels, status });
      requestSeconds.observe(labels, ms / SECOND);
    },

    observeTaskEnd({ status, error, output, created_at, finished_at }: Task): void {
      const code = error ? (Object.hasOwn(ERROR_CODES, error.code) ? error.code : 'other') : '';
      ends.inc({ status, code });
      taskSeconds.observe({ status }, Math.max(0, finished_at! - created_at) / SECOND);
      for (const stage of TIMED_STAGES) {
        const ms = output?.timings_ms[stage] ?? -1;
        if (ms >= 0) stageSeconds.observe({ stage }, ms / SECOND);
      }
    },

    /** @param ms since the task's end */
    observeWebhookAttempt(outcome: AttemptOutcome, ms: number): void {
      attempts.inc({ outcome });
      if (outcome === 'delivered') webhookLag.observe(Math.max(0, ms) / SECOND); // another process may have written the end
    },

    /** For `measured`. */
    observeRunPodCall(operation: string, ms: number, error: unknown): void {
      const outcome = error === undefined ? 'ok' : error instanceof UnansweredError ? 'unanswered' : 'error';
      runpodRequests.inc({ operation, outcome });
      runpodSeconds.observe({ operation }, ms / SECOND);
    },

    /** For `measured`. */
    observeStoreCall(operation: string, ms: number, error: unknown): void {
      if (error !== undefined) storeErrors.inc({ operation });
      storeSeconds.observe({ operation }, ms / SECOND);
    },

    /**
     * Adds a gauge whose values are read at each scrape. Where that fails or takes too long, the scrape goes without them.
     * @param read each value with its labels
     */
    gauge<L extends string>(
      name: string,
      help: string,
      labelNames: L[],
      read: () => Promise<[labels: Record<L, string>, value: number][]>,
    ): void {
      const gauge = new Gauge({
        ...common(name, help),
        labelNames,
        async collect() {
          const values = await inTime(read()).catch((error) => {
            log.warn({ gauge: name, error }, 'a gauge could not be read');
            return [];
          });
          gauge.reset();
          gauge.remove({}); // the 0 that one without labels is reset to
          for (const [labels, value] of values) gauge.set(labels, value);
        },
      });
    },
  };
}

type Call = (...args: never[]) => Promise<unknown>;

/**
 * The same object, each call of its functions timed.
 * @param ended told after each call the function's name, milliseconds, and the error if it failed
 */
export function instrument<T extends { [K in keyof T]: boolean | Call }>(
  object: T,
  ended: (operation: string, ms: number, error: unknown) => void,
): T {
  const measure = (name: string, call: Call) => {
    return async (...args: never[]) => {
      const began = performance.now();
      let failure: unknown;
      try {
        return await call.apply(object, args);
      } catch (error) {
        failure = error;
        throw error;
      } finally {
        ended(name, performance.now() - began, failure);
      }
    };
  };
  return Object.fromEntries(
    Object.entries<boolean | Call>(object).map(([name, value]) => [
      name,
      typeof value === 'function' ? measure(name, value) : value,
    ]),
  ) as T;
}
