import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { openStore, type Store } from '../../api/store/store.ts';
import type { Task } from '../../api/store/task.ts';
import type { PresentedTask } from '../../core/responses.ts';
import { hasPostgres, type LocalPostgres, skipped, startPostgres } from '../../infra/simulators/postgres-server.ts';
import { queueServer } from '../../infra/simulators/runpod-queue-server.ts';
import { type ApiProcess, startApi } from '../support/api-process.ts';
import { listen, makeKey, testService } from '../support/test-api.ts';
import { jobOutput } from './job-output.ts';

const KEY = 'test-key';
/** which of its submissions a process is killed at */
const KILLED_AT = 8;
const ended = ({ status }: { status: string }) => ['succeeded', 'failed', 'canceled'].includes(status);

describe.skipIf(!hasPostgres)(`API processes on one PostgreSQL${skipped}`, () => {
  let postgres: LocalPostgres;
  beforeAll(async () => {
    postgres = await startPostgres();
  });
  afterAll(() => postgres?.stop());

  test('end every task when one of two is killed, and only the crash causes a second submission', async () => {
    const { name, url } = await postgres.database();
    const folder = await mkdtemp(join(tmpdir(), 'replicas-'));
    const { app, queue, close: closeQueue } = queueServer({ apiKey: KEY, pollTimeout: 100, workerTimeout: Infinity });
    const submissions: { task: string; by: Replica }[] = [];
    let onSubmission: ((by: Replica) => void) | undefined;

    interface Replica extends ApiProcess {
      stop(): Promise<void>;
    }
    /** An API process with its own connection to the queue, which tells who sends a request. */
    async function start(): Promise<Replica> {
      const proxy = await listen({
        async fetch(request) {
          if (!new URL(request.url).pathname.endsWith('/run')) return app.fetch(request);
          const { input } = (await request.clone().json()) as { input: { task_id: string } };
          const answer = await app.fetch(request); // the job is made; the answer may still get lost
          submissions.push({ task: input.task_id, by: replica });
          onSubmission?.(replica);
          return answer;
        },
      });
      const started = await startApi({
        dataDir: folder,
        runpod: { url: proxy.url, apiKey: KEY },
        env: { DATABASE_URL: url, RUNPOD_LOG_LEVEL: 'ERROR' },
      });
      const replica = { ...started, stop: () => started.exited.then(() => proxy.close()) };
      return replica;
    }

    const [doomed, other] = await Promise.all([start(), start()]);

    // Workers: every queued job succeeds.
    let isOver = false;
    const working = (async () => {
      while (!isOver) {
        for (const job of queue.take('worker', 10)) {
          const { task_id } = job.input as { task_id: string };
          queue.report(job, 'worker', { output: jobOutput(task_id, job.id) });
        }
        await queue.waitForChange(100);
      }
    })();

    const kill = new Promise<void>((resolve) => {
      onSubmission = (by) => {
        if (by !== doomed || submissions.filter(({ by }) => by === doomed).length < KILLED_AT) return;
        doomed.child.kill('SIGKILL'); // its job exists, and it does not know the id
        onSubmission = undefined;
        resolve();
      };
    });
    const accepted: string[] = [];
    async function post(to: Replica, i: number): Promise<boolean> {
      const response = await fetch(`${to.url}/img2vid`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ prompt: `${i}` }),
      }).catch(() => undefined); // it was killed
      if (response) expect(response.status).toBe(202);
      const task = (await response?.json().catch(() => undefined)) as PresentedTask | undefined;
      if (task) accepted.push(task.id);
      return task !== undefined;
    }
    // A task that is posted at one process is watched at the other.
    await post(doomed, 0);
    const events = await fetch(`${other.url}/status?id=${accepted[0]}`, { headers: { accept: 'text/event-stream' } });
    expect((await events.text()).match(/"status":"\w+"/g)!.at(-1)).toBe('"status":"succeeded"');

    const posts = Array.from({ length: 59 }, async (_, i) =>
      i % 2 ? post(other, i) : (await post(doomed, i)) || post(other, i),
    );
    expect(await Promise.all(posts)).not.toContain(false);
    await kill;
    expect(await doomed.exited).toEqual([null, 'SIGKILL']);

    // The survivor ends all tasks that the dead process has not leased.
    const status = async (at: Replica, id: string) =>
      (await (await fetch(`${at.url}/status?id=${id}`)).json()) as PresentedTask;
    const open = `from tasks where status in ('queued', 'running')`;
    const free = async () => Number(await postgres.query(name, `select count(*) ${open} and leased_until = 0`));
    while ((await free()) > 0) await Promise.all(accepted.map((id) => status(other, id)));
    other.child.kill('SIGTERM');
    expect(await other.exited).toEqual([0, null]);

    // The other leases are the dead process's. When they have expired, the next process claims them.
    const orphans = new Set((await postgres.query(name, `select id ${open} and leased_until > 0`)).split('\n'));
    expect(orphans).toContain(submissions.filter(({ by }) => by === doomed).at(KILLED_AT - 1)!.task);
    await postgres.query(
      name,
      'update tasks set next_run_at = next_run_at - 60000, leased_until = leased_until - 60000',
    );
    const next = await start();
    for (const id of accepted)
      for (let task = await status(next, id); ; task = await status(next, id)) {
        if (ended(task)) {
          expect(task.status).toBe('succeeded');
          break;
        }
      }
    const all = (await postgres.query(name, 'select id from tasks')).split('\n');
    expect(all).toEqual(expect.arrayContaining(accepted));
    for (const id of all) {
      const count = submissions.filter(({ task }) => task === id).length;
      expect(count, id).toBeGreaterThanOrEqual(1);
      expect(count, id).toBeLessThanOrEqual(orphans.has(id) ? 2 : 1);
    }
    expect(submissions.some(({ by }) => by === other)).toBe(true);

    isOver = true;
    next.child.kill('SIGTERM');
    await Promise.all([working, doomed.stop(), other.stop(), next.stop()]);
    await closeQueue();
    await rm(folder, { recursive: true });
  }, 60_000);

  test('make one task of a request that two of them get repeatedly at the same time', async () => {
    const { name, url } = await postgres.database();
    const services = [await testService({ DATABASE_URL: url }), await testService({ DATABASE_URL: url })];
    const headers = { 'content-type': 'application/json', 'idempotency-key': 'once' };
    const post = (i: number) => services[i % 2]!.post({ prompt: 'x' }, { headers });
    const answers = await Promise.all(Array.from({ length: 10 }, (_, i) => post(i)));
    answers.push(await post(0), await post(1));
    expect(answers.map(({ status }) => status)).toEqual(Array(12).fill(202));
    expect(answers.filter((answer) => answer.headers.get('idempotency-replayed') === 'true')).toHaveLength(11);
    const tasks = (await Promise.all(answers.map((answer) => answer.json()))) as PresentedTask[];
    expect(await postgres.query(name, 'select id from tasks')).toBe(tasks[0]!.id);
    expect(new Set(tasks.map(({ id, input }) => `${id} ${input.seed}`)).size).toBe(1);
    for (const service of services) await service.close();
  });

  test('accept ten of fifty simultaneous posts when the budget suffices for ten', async () => {
    const { name, url } = await postgres.database();
    const folder = await mkdtemp(join(tmpdir(), 'replicas-'));
    const { app, queue, close } = queueServer({ apiKey: KEY, pollTimeout: 100, workerTimeout: Infinity });
    const proxy = await listen(app);
    const store = await openStore(url);
    const { id, headers } = await makeKey(store, { budget: 100_000 });
    const start = () =>
      startApi({
        dataDir: folder,
        runpod: { url: proxy.url, apiKey: KEY },
        env: { DATABASE_URL: url, RUNPOD_LOG_LEVEL: 'ERROR', PRICE_PER_GPU_SECOND: '0.01' }, // 10,000 a small clip
      });
    const apis = await Promise.all([start(), start()]);
    const post = async (i: number) => {
      const response = await fetch(`${apis[i % 2]!.url}/img2vid`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: JSON.stringify({ prompt: `${i}`, H: 64, W: 64 }),
      });
      return response.status;
    };
    const codes = await Promise.all(Array.from({ length: 50 }, (_, i) => post(i)));
    expect(codes.filter((code) => code === 202)).toHaveLength(10);
    expect(codes.filter((code) => code === 402)).toHaveLength(40);
    expect(await postgres.query(name, 'select count(*), sum(reserved) from ledger')).toBe('10|100000');
    const ask = async (i: number, path: string) => (await fetch(apis[i]!.url + path, { headers })).json();
    for (const i of [0, 1])
      expect(await ask(i, '/usage')).toMatchObject({ reserved: 100_000, left: 0, open_tasks: 10 });
    expect(await ask(1, '/status')).toHaveLength(10);

    // They end, each at the process that polls first. The cost is spent once, and the rest is released.
    for (let done = 0; done < 10; ) {
      for (const job of queue.take('worker', 10)) {
        const output = jobOutput((job.input as { task_id: string }).task_id, job.id);
        queue.report(job, 'worker', { output: { ...output, timings_ms: { sampling: 400 } } });
        done++;
      }
      await queue.waitForChange(100);
    }
    const spent = { reserved: 0, spent: 40_000, open_tasks: 0, days: [{ succeeded: 10, amount: 40_000 }] };
    await vi.waitFor(async () => expect(await ask(0, '/usage')).toMatchObject(spent));
    expect((await store.getKey(id))!.spent).toBe(40_000);
    for (const { child } of apis) child.kill('SIGTERM');
    for (const { exited } of apis) expect(await exited).toEqual([0, null]);
    await store.close();
    await proxy.close();
    await close();
    await rm(folder, { recursive: true });
  });

  test('send a watcher each change by another process once', async () => {
    const { url } = await postgres.database();
    const service = await testService({ DATABASE_URL: url });
    const other = await openStore(url);
    const { id } = (await (await service.post({ prompt: 'x' })).json()) as PresentedTask;
    const job = await service.take(id);
    const stream = await fetch(`${service.url}/status?id=${id}`, { headers: { accept: 'text/event-stream' } });
    await submitted(other, id);
    const change = async (changes: Parameters<typeof other.update>[1]) => {
      let changed: Task | undefined;
      while (!changed) changed = await other.update((await other.get(id))!, changes);
      return changed;
    };
    await change({ status: 'running', stage: 'sampling', progress: 0.4 }); // the queue has no progress
    let text = '';
    let hasEnded = false;
    for await (const part of stream.body!.pipeThrough(new TextDecoderStream())) {
      text += part;
      if (hasEnded || !text.includes('"progress":0.4')) continue;
      hasEnded = true;
      await change({ status: 'failed', error: { code: 'internal', message: 'x', retryable: false }, nextRunIn: 0 });
    }
    const events = [...text.matchAll(/^data: (.*)$/gm)].map(([, data]) => JSON.parse(data!) as PresentedTask);
    expect(events.map(({ status, progress }) => `${status} ${progress}`).slice(-2)).toEqual([
      'running 0.4',
      'failed 0.4',
    ]);
    expect(events.filter(({ progress }) => progress === 0.4)).toHaveLength(2);
    expect(service.queue.find(job.id)!.status).toBe('IN_PROGRESS');
    await other.close();
    await service.close();
  });

  test('send a watcher an end that comes just before this process claims the task', async () => {
    const { url } = await postgres.database();
    const service = await testService({ DATABASE_URL: url });
    const other = await openStore(url);
    const { id } = (await (await service.post({ prompt: 'x' })).json()) as PresentedTask;
    await service.take(id);
    await submitted(other, id);
    const { claim } = service.store;
    let isEnded = false;
    service.store.claim = async (...given) => {
      for (let free: Task | undefined; !isEnded; ) {
        free = (await other.get(id))!;
        if (free.leased_until > 0) break;
        isEnded =
          (await other.update(free, { status: 'canceled', finished_at: Date.now(), nextRunIn: 3_600_000 })) !==
          undefined;
      }
      return claim(...given);
    };
    const stream = await fetch(`${service.url}/status?id=${id}`, { headers: { accept: 'text/event-stream' } });
    expect((await stream.text()).match(/"status":"\w+"/g)!.at(-1)).toBe('"status":"canceled"');
    await other.close();
    await service.close();
  });

  test('poll a watched task soon, also when another process has scheduled it much later', async () => {
    const { url } = await postgres.database();
    const service = await testService({ DATABASE_URL: url });
    const other = await openStore(url);
    const { id } = (await (await service.post({ prompt: 'x' })).json()) as PresentedTask;
    const job = await service.take(id);
    await service.status(id); // watches
    const { version } = await submitted(other, id);
    while ((await other.get(id))!.version < version + 6); // polls because of the watcher, after everything else is done
    for (let put: Task | undefined; !put; ) {
      const task = await submitted(other, id);
      if (task.leased_until === 0) put = await other.update(task, { nextRunIn: 3_600_000 });
    }
    service.report(job.id, { status: 'IN_PROGRESS', output: { stage: 'sampling', progress: 0.5 } });
    while ((await other.get(id))!.progress !== 0.5);
    await other.close();
    await service.close();
  });

  test('keep the job of a task that another process changes during the submission', async () => {
    const { url } = await postgres.database();
    const service = await testService({ DATABASE_URL: url });
    const other = await openStore(url);
    service.faults.runpod = async (request) => {
      if (request.method !== 'POST') return undefined;
      delete service.faults.runpod;
      const { input } = (await request.clone().json()) as { input: { task_id: string } };
      const task = (await other.get(input.task_id))!;
      expect(await other.update(task, { step: 7 })).toMatchObject({ job_id: null });
      return undefined; // now the queue answers
    };
    const { id } = (await (await service.post({ prompt: 'x' })).json()) as PresentedTask;
    const job = await service.take(id);
    expect(await submitted(other, id)).toMatchObject({ job_id: job.id, step: 7, jobs: 1 });
    await other.close();
    await service.close();
  });

  test('keep the job, and make no second one, when the database fails just after the submission', async () => {
    const { name, url } = await postgres.database();
    const service = await testService({ DATABASE_URL: url });
    const away = new Promise<void>((resolve) => {
      service.faults.runpod = async (request) => {
        if (request.method !== 'POST') return undefined;
        delete service.faults.runpod;
        const connections = `from pg_stat_activity where datname = '${name}'`;
        await postgres.query('postgres', `alter database ${name} allow_connections false`);
        await postgres.query('postgres', `select pg_terminate_backend(pid) ${connections}`);
        resolve();
        return undefined; // now the queue answers
      };
    });
    await service.post({ prompt: 'x' });
    await away;
    await postgres.query('postgres', `alter database ${name} allow_connections true`);
    while ((await postgres.query(name, 'select count(job_id) from tasks')) !== '1');
    expect(service.queue.health().jobs.inQueue).toBe(1);
    await service.close();
  });
});

/** Waits until the task's job is known. */
async function submitted(store: Store, id: string): Promise<Task> {
  for (;;) {
    const task = (await store.get(id))!;
    if (task.job_id !== null) return task;
  }
}
