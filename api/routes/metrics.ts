import { SECOND } from '../../core/time.ts';
import { endpoint } from '../http/endpoint.ts';
import { text } from '../openapi/parts.ts';
import { type Key, spentOf } from '../store/key.ts';

const EXAMPLE = `# HELP img2vid_tasks Active tasks in the store
# TYPE img2vid_tasks gauge
img2vid_tasks{status="queued"} 3
img2vid_tasks{status="running"} 1
`;

/** Counters of this process, and gauges that are read from the store at each scrape, in Prometheus' text format. */
export const metrics = endpoint({
  method: 'GET',
  path: '/metrics',
  scope: 'admin',
  describe: () => ({
    operationId: 'metrics',
    tags: ['service'],
    summary: 'Metrics in Prometheus’ text format; for admins’ API keys',
    responses: {
      200: {
        description: 'Counters, gauges and histograms',
        content: { 'text/plain': { schema: text, example: EXAMPLE } },
      },
    },
  }),
  handle({ metrics, store, now }) {
    const active = shared(() => store.countActive());
    const keys = shared(() => store.listKeys());

    metrics.gauge('tasks', 'Active tasks in the store', ['status'], async () => {
      const { queued, running } = await active();
      return [
        [{ status: 'queued' }, queued],
        [{ status: 'running' }, running],
      ];
    });
    metrics.gauge('jobs_out', 'Jobs at RunPod that belong to active tasks', [], async () => [
      [{}, (await active()).out],
    ]);
    metrics.gauge('queue_age_seconds', 'Age of the oldest task without a job; 0 if there is none', [], async () => {
      const { oldest } = await active();
      return [[{}, oldest === undefined ? 0 : Math.max(0, now() - oldest) / SECOND]];
    });

    const keyGauge = (name: string, help: string, read: (key: Key) => number) =>
      metrics.gauge(name, help, ['key'], async () =>
        (await keys()).map((key): [{ key: string }, number] => [{ key: key.id }, read(key)]),
      );
    keyGauge('key_spent_micro_units', 'What a key has spent this month', (key) => spentOf(key, now()));
    keyGauge('key_reserved_micro_units', 'Amount reserved for a key’s active tasks', ({ reserved }) => reserved);
    keyGauge('key_open_tasks', 'Active tasks of a key', ({ active_tasks }) => active_tasks);

    return async (c) => c.body(await metrics.text(), 200, { 'content-type': metrics.contentType });
  },
});

/** One query for all gauges, and for all scrapes at the same time. */
function shared<T>(query: () => Promise<T>): () => Promise<T> {
  let pending: Promise<T> | undefined;
  return () => {
    pending ??= query().finally(() => {
      pending = undefined;
    });
    return pending;
  };
}
