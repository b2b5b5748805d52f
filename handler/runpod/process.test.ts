import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect, onTestFinished, test } from 'vitest';
import { hold, inTurn, jobs, json, scriptedQueue } from '../../test/support/test-worker.ts';

/** A worker in its own process, because it handles the process's uncaught errors. */
function program(handler: string, env: NodeJS.ProcessEnv, options = '') {
  const code = `
    import { serve } from ${JSON.stringify(new URL('./index.ts', import.meta.url).href)};
    try {
      await serve(${handler}, { gracePeriod: 5000, ${options} });
      process.exit(0);
    } catch (error) {
      console.error(error.message);
      process.exit(1);
    }`;
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', code], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  let [out, err] = ['', ''];
  child.stdout.on('data', (text) => {
    out += text;
  });
  child.stderr.on('data', (text) => {
    err += text;
  });
  const ended = once(child, 'close').then(([code]) => ({ code: code as number, out, err }));
  return {
    child,
    ended,
    /** Resolves when the program has printed the text. */
    async printed(text: string) {
      while (!out.includes(text)) await once(child.stdout, 'data');
    },
    events: () =>
      out
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line)),
  };
}

const message = (posted: { error: string }[]) => posted.map(({ error }) => JSON.parse(error).error_message);

test('an unhandled rejection fails its own job and no other', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('failing', 'good') });
  const handler = `async ({ id }) => {
    if (id === 'good') { await new Promise((resolve) => setTimeout(resolve, 100)); return 'good'; }
    setTimeout(() => void Promise.reject(new RangeError('failing')), 1);
    return new Promise(() => {}); // its error was not passed on
  }`;
  const { child, ended, events } = program(handler, queue.env, 'concurrency: 2');
  await queue.waitFor(2, 'job-done');
  expect(message(queue.posted('failing'))).toEqual(['failing']);
  expect(queue.posted('good')).toEqual([{ output: 'good' }]);
  child.kill('SIGTERM'); // it had gone on
  expect(await ended).toMatchObject({ code: 0, err: '' });
  expect(events()).toContainEqual(
    expect.objectContaining({ message: 'unhandled rejection', requestId: 'failing', level: 'WARN' }),
  );
});

test('an uncaught exception fails its job; the other jobs end, and the worker exits with 1', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('slow', 'failing', 'late') });
  const handler = `async ({ id }) => {
    if (id === 'slow') return new Promise((resolve) => setTimeout(resolve, 200, 'slow'));
    setTimeout(() => { throw new RangeError('nobody caught me'); }, 1);
    return new Promise(() => {});
  }`;
  const { ended } = program(handler, queue.env, 'concurrency: 2');
  expect(await ended).toMatchObject({ code: 1, err: expect.stringContaining('nobody caught me') });
  expect(message(queue.posted('failing'))).toEqual(['nobody caught me']);
  expect(queue.posted('slow')).toEqual([{ output: 'slow' }]);
  expect(queue.requests('job-done', 'late')).toEqual([]);
});

test('an unhandled rejection outside of any job is logged, and the worker goes on', async () => {
  const queue = await scriptedQueue({
    'job-take': inTurn(
      (response) => void setTimeout(() => response.writeHead(204).end(), 200),
      json({ id: 'a', input: 1 }),
      hold,
    ),
  });
  const handler = '() => 1';
  const fitness = 'fitness: { async failing() { setTimeout(() => void Promise.reject(new Error("mine")), 50); } }';
  const { child, ended, events } = program(handler, queue.env, fitness);
  await queue.waitFor(1, 'job-done');
  child.kill('SIGTERM');
  expect(await ended).toMatchObject({ code: 0 });
  expect(events()).toContainEqual(expect.objectContaining({ message: 'unhandled rejection', requestId: null }));
});

test('after SIGTERM a running job ends and is posted, and the process exits with 0; a second signal ends it at once', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('a') });
  const short = program('() => new Promise((resolve) => setTimeout(resolve, 300, 1))', queue.env);
  await queue.waitFor(1, 'job-take');
  await short.printed('job started');
  short.child.kill('SIGTERM');
  expect(await short.ended).toMatchObject({ code: 0 });
  expect(queue.posted('a')).toEqual([{ output: 1 }]);

  const other = await scriptedQueue({ 'job-take': jobs('b') });
  const long = program('() => new Promise(() => {})', other.env);
  await long.printed('job started');
  long.child.kill('SIGTERM');
  await long.printed('stopping');
  long.child.kill('SIGTERM');
  expect(await long.ended).toMatchObject({ code: 1 });
  expect(other.requests('job-done')).toEqual([]);
});

test('a worker whose standard output is closed goes on without a log', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('a') });
  const { child, ended } = program('() => 1', queue.env);
  child.stdout.destroy();
  await queue.waitFor(1, 'job-done');
  expect(queue.posted('a')).toEqual([{ output: 1 }]);
  child.kill('SIGTERM');
  expect(await ended).toMatchObject({ code: 0, err: '' });
});
