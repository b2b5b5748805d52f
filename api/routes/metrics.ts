import { Hono } from 'hono';
import { SECOND } from '../../core/time.ts';
import type { Services } from '../services.ts';
import { type Key, monthOf } from '../store/key.ts';

/** GET /metrics: what was counted in this process, and how many tasks are open in the store, in Prometheus' text format. */
export function metrics({ metrics, store, now }: Pick<Services, 'metrics' | 'store' | 'now'>) {
  const open = shared(() => store.countActive());
  const keys = shared(() => store.listKeys());

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

  const ofKeys = (name: string, help: string, read: (key: Key) => number) =>
    metrics.gauge(name, help, ['key'], async () =>
      (await keys()).map((key): [{ key: string }, number] => [{ key: key.id }, read(key)]),
    );
  ofKeys('key_spent_micro_units', 'What a key has spent this month', ({ month, spent }) =>
    month === monthOf(now()) ? spent : 0,
  );
  ofKeys('key_reserved_micro_units', 'What is reserved for a key’s open tasks', ({ reserved }) => reserved);
  ofKeys('key_open_tasks', 'Tasks that a key has open', ({ active_tasks }) => active_tasks);

  return new Hono().get('/metrics', async (c) =>
    c.body(await metrics.text(), 200, { 'content-type': metrics.contentType }),
  );
}

/** One question for all gauges, and for all who scrape at once. */
function shared<T>(ask: () => Promise<T>): () => Promise<T> {
  let asked: Promise<T> | undefined;
  return () => {
    asked ??= ask().finally(() => {
      asked = undefined;
    });
    return asked;
  };
}
