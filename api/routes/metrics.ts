import { Hono } from 'hono';
import type { Services } from '../services.ts';

const SECOND = 1000;

/** GET /metrics: what was counted in this process, and how many tasks are open in the store, in Prometheus' text format. */
export function metrics({ metrics, store, now }: Pick<Services, 'metrics' | 'store' | 'now'>) {
  let asked: ReturnType<typeof store.openTasks> | undefined;
  /** One question for all gauges, and for all who scrape at once. */
  function open() {
    asked ??= store.openTasks().finally(() => {
      asked = undefined;
    });
    return asked;
  }

  metrics.gauge('tasks', 'Open tasks in the store', ['status'], async () => {
    const { queued, running } = await open();
    return [
      [{ status: 'queued' }, queued],
      [{ status: 'running' }, running],
    ];
  });
  metrics.gauge('jobs_out', 'Jobs of open tasks that RunPod has', [], async () => [[{}, (await open()).out]]);
  metrics.gauge(
    'queue_age_seconds',
    'Since the oldest task without a job was created; 0: none is without',
    [],
    async () => {
      const { oldest } = await open();
      return [[{}, oldest === undefined ? 0 : Math.max(0, now() - oldest) / SECOND]];
    },
  );

  return new Hono().get('/metrics', async (c) =>
    c.body(await metrics.text(), 200, { 'content-type': metrics.contentType }),
  );
}
