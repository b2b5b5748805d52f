/**
 * Counters, histograms and gauges for Prometheus (GET /metrics). Each process reports its own; what all of them share, such as the tasks
 * in the store, each reports in full. A label has few values, all known here: no text of a client or a worker becomes one. The one
 * importer of prom-client.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from 'pino';
// biome-ignore lint/style/noRestrictedImports: This module is the only importer of prom-client.
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import { ERROR_CODES, TIMED_STAGES } from '../core/job.ts';
import { ENDED_STATUSES } from '../core/task-status.ts';
import { SECOND } from '../core/time.ts';
import { UnansweredError } from './runpod.ts';
import type { Task } from './store/task.ts';

const MINUTE = 60; // seconds, from here on
const HOUR = 60 * MINUTE;

const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'];
/** Hono's pattern where there is no route. */
const NO_ROUTE = '/*';

const ATTEMPTS = ['delivered', 'refused', 'unreachable', 'exhausted'] as const;
/** Outcome of one attempt to deliver a webhook. `exhausted`: it failed, and there is no further attempt. */
export type AttemptOutcome = (typeof ATTEMPTS)[number];

const options = (registry: Registry, name: string, help: string) => ({
  name: `img2vid_${name}`,
  help,
  registers: [registry],
});

/** Names, help texts, labels and bounds (in seconds) of all counters and histograms. */
function register(registry: Registry) {
  const counter = <L extends string>(name: string, help: string, labelNames: L[]) =>
    new Counter({ ...options(registry, name, help), labelNames });
  const histogram = <L extends string>(name: string, help: string, labelNames: L[], buckets: number[]) =>
    new Histogram({ ...options(registry, name, help), labelNames, buckets });
  return {
    requests: counter('http_requests_total', 'HTTP responses by route pattern', ['method', 'route', 'status']),
    requestSeconds: histogram(
      'http_request_duration_seconds',
      'Time from a request to the end of its response',
      ['method', 'route'],
      [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, MINUTE], // Prefer: wait takes up to a minute
    ),
    ends: counter('tasks_ended_total', 'Ended tasks; code is empty unless the task failed', ['status', 'code']),
    taskSeconds: histogram(
      'task_seconds',
      'Time from a task’s creation to its end',
      ['status'],
      [1, 2, 5, 10, 30, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 30 * MINUTE, HOUR, 6 * HOUR, 24 * HOUR],
    ),
    stageSeconds: histogram(
      'stage_seconds',
      'Time of each stage of succeeded tasks, as the worker measured it; waiting: for the GPU',
      ['stage'],
      [0.1, 0.5, 1, 2, 5, 10, 20, 30, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 30 * MINUTE],
    ),
    attempts: counter('webhook_attempts_total', 'Attempts to deliver a webhook', ['outcome']),
    webhookLag: histogram(
      'webhook_lag_seconds',
      'Time from a task’s end to the delivery of its webhook',
      [],
      [0.1, 0.5, 1, 5, 10, 30, MINUTE, 10 * MINUTE, HOUR, 6 * HOUR, 24 * HOUR, 72 * HOUR],
    ),
    runpodCalls: counter('runpod_requests_total', 'Requests to RunPod; unanswered: a job may exist', [
      'operation',
      'outcome',
    ]),
    runpodSeconds: histogram(
      'runpod_request_seconds',
      'Time of requests to RunPod',
      ['operation'],
      [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
    ),
    storeSeconds: histogram(
      'store_seconds',
      'Time of store calls',
      ['operation'],
      [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30],
    ),
    storeErrors: counter('store_errors_total', 'Store calls that failed', ['operation']),
  };
}

export type Metrics = ReturnType<typeof createMetrics>;

/** @param gaugeTimeout for the values of one gauge, in milliseconds: Prometheus waits 10 s for all */
export function createMetrics(log: Logger, { gaugeTimeout = 3 * SECOND } = {}) {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry }); // of the process, under the names that all Node programs use
  const metrics = register(registry);
  // Rare series exist from the start, so that their first increment shows as an increase.
  for (const status of ENDED_STATUSES) if (status !== 'failed') metrics.ends.inc({ status, code: '' }, 0);
  for (const code of Object.keys(ERROR_CODES)) metrics.ends.inc({ status: 'failed', code }, 0);
  for (const outcome of ATTEMPTS) metrics.attempts.inc({ outcome }, 0);

  return {
    contentType: registry.contentType,

    /** All metrics in Prometheus' text format. */
    text: (): Promise<string> => registry.metrics(),

    /** @param request `route`: a pattern, never a URL; `ms`: until the end of its response */
    observeRequest({ method, route, status, ms }: { method: string; route: string; status: number; ms: number }): void {
      const labels = {
        method: METHODS.includes(method) ? method : 'other',
        route: route === NO_ROUTE ? 'unknown' : route,
      };
      metrics.requests.inc({ ...labels, status });
      metrics.requestSeconds.observe(labels, ms / SECOND);
    },

    observeTaskEnd({ status, error, output, created_at, finished_at }: Task): void {
      const code = error ? (Object.hasOwn(ERROR_CODES, error.code) ? error.code : 'other') : '';
      metrics.ends.inc({ status, code });
      metrics.taskSeconds.observe({ status }, Math.max(0, finished_at! - created_at) / SECOND);
      for (const stage of TIMED_STAGES) {
        const ms = output?.timings_ms[stage] ?? -1;
        if (ms >= 0) metrics.stageSeconds.observe({ stage }, ms / SECOND);
      }
    },

    /** @param ms since the task's end, by a clock that may lag behind that of the process which stored the end */
    observeWebhookAttempt(outcome: AttemptOutcome, ms: number): void {
      metrics.attempts.inc({ outcome });
      if (outcome === 'delivered') metrics.webhookLag.observe(Math.max(0, ms) / SECOND);
    },

    /** For `instrument`. */
    observeRunPodCall(operation: string, ms: number, error: unknown): void {
      const outcome = error === undefined ? 'ok' : error instanceof UnansweredError ? 'unanswered' : 'error';
      metrics.runpodCalls.inc({ operation, outcome });
      metrics.runpodSeconds.observe({ operation }, ms / SECOND);
    },

    observeStoreCall(operation: string, ms: number, error: unknown): void {
      if (error !== undefined) metrics.storeErrors.inc({ operation });
      metrics.storeSeconds.observe({ operation }, ms / SECOND);
    },

    /**
     * Adds a gauge whose values are read at each scrape. If that fails or takes too long, the scrape goes without them.
     * @param read each value with its labels
     */
    gauge<L extends string>(
      name: string,
      help: string,
      labelNames: L[],
      read: () => Promise<[labels: Record<L, string>, value: number][]>,
    ): void {
      const gauge = new Gauge({
        ...options(registry, name, help),
        labelNames,
        async collect() {
          const timeout = delay(gaugeTimeout, undefined, { ref: false }).then(() => {
            throw new Error(`no values within ${gaugeTimeout} ms`);
          });
          const values = await Promise.race([read(), timeout]).catch((error) => {
            log.warn({ gauge: name, error }, 'a gauge could not be read');
            return [];
          });
          gauge.reset();
          gauge.remove({}); // `reset` sets a gauge without labels to 0
          for (const [labels, value] of values) gauge.set(labels, value);
        },
      });
    },
  };
}

type Call = (...args: never[]) => Promise<unknown>;
type OnCall = (operation: string, ms: number, error: unknown) => void;

/**
 * @param onCall called after each call with the function's name, its duration, and its error if it failed
 * @returns a copy of the object that times every call of its functions
 */
export function instrument<T extends { [K in keyof T]: boolean | Call }>(object: T, onCall: OnCall): T {
  const timed =
    (name: string, call: Call): Call =>
    async (...args) => {
      const startedAt = performance.now();
      const observe = (error?: unknown) => onCall(name, performance.now() - startedAt, error);
      const result = call.apply(object, args);
      result.then(() => observe(), observe);
      return result;
    };
  const entries = Object.entries<boolean | Call>(object);
  return Object.fromEntries(entries.map(([name, f]) => [name, typeof f === 'function' ? timed(name, f) : f])) as T;
}
