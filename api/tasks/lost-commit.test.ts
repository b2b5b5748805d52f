/** PostgreSQL commits a change, and the connection breaks before the API gets the answer. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { hasPostgres, type LocalPostgres, skipped, startPostgres } from '../../infra/simulators/postgres-server.ts';
import { startPostgresProxy } from '../../test/support/postgres-proxy.ts';
import { type TestService, testService } from '../../test/support/test-api.ts';

describe.skipIf(!hasPostgres)(`after a lost answer to a commit${skipped}`, () => {
  let postgres: LocalPostgres;
  let proxy: Awaited<ReturnType<typeof startPostgresProxy>>;
  let service: TestService;
  let pattern: RegExp | undefined; // the answer to its next match is lost
  beforeAll(async () => {
    postgres = await startPostgres();
  });
  afterAll(() => postgres?.stop());
  beforeEach(async () => {
    const { url } = await postgres.database();
    const losesAnswer = (sent: string) => {
      if (!pattern?.test(sent)) return false;
      pattern = undefined;
      return true;
    };
    proxy = await startPostgresProxy(postgres.port, () => losesAnswer);
    service = await testService({ DATABASE_URL: url.replace(`:${postgres.port}/`, `:${proxy.port}/`) });
  });
  afterEach(async () => {
    await service.close();
    await proxy.close();
  });

  const ended = ({ status }: { status: string }) => ['succeeded', 'failed', 'canceled'].includes(status);
  const create = async () => (await (await service.post({ prompt: 'x' })).json()).id as string;

  test('a new job stays the task’s, and its result ends the task', async () => {
    pattern = /update "tasks"[^;]*"job_id" = /;
    const id = await create();
    const job = await service.take(id);
    while ((await service.store.get(id))!.job_id !== job.id) await new Promise((resolve) => setTimeout(resolve, 5));
    const next = await create(); // by then the API has stored the first task again, or given up
    await service.take(next);
    expect(proxy.lost()).toBe(1);
    expect((await service.store.get(id))!.jobs_to_cancel).toEqual([]);
    service.report(job.id, { output: await service.finish(id, job.id) });
    expect(await service.until(id, ended)).toMatchObject({ status: 'succeeded' });
  });

  test('an ended task is counted and logged as ended, once', async () => {
    const id = await create();
    const job = await service.take(id);
    const output = await service.finish(id, job.id);
    await service.until(id, ({ status }) => status === 'running');
    pattern = /^.{0,9}commit/is;
    service.report(job.id, { output });
    await service.until(id, ended);
    const ends = () => service.logged.filter(({ msg, task }) => msg === 'task ended' && task === id);
    while (ends().length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    expect([proxy.lost(), ends().length]).toEqual([1, 1]);
    expect(await service.metrics.text()).toContain('img2vid_tasks_ended_total{status="succeeded",code=""} 1');
  });
});
