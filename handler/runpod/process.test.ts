import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect, test } from 'vitest';
import { afterwards, farQueue, hold, inTurn, jobs, json } from '../../test/support/test-worker.ts';

/** A worker in a process of its own, since it listens to what nobody in the process has caught. */
function program(handler: string, env: NodeJS.ProcessEnv, options = '') {
  const code = `
    import { serve } from ${JSON.stringify(new URL('./index.ts', import.meta.url).href)};
    try {
      await serve(${handler}, { grace: 5000, ${options} });
      process.exit(0);
    } catch (error) {
      console.error(error.message);
      process.exit(1);
    }`;
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', code], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  afterwards(() => child.kill('SIGKILL'));
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
    events: () =>
      out
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line)),
  };
}

const message = (posted: { error: string }[]) => posted.map(({ error }) => JSON.parse(error).error_message);

test('a rejection that nobody handles fails its own job, and no other', async () => {
  const far = await farQueue({ 'job-take': jobs('astray', 'good') });
  const handler = `async ({ id }) => {
    if (id === 'good') { await new Promise((resolve) => setTimeout(resolve, 100)); return 'good'; }
    setTimeout(() => void Promise.reject(new RangeError('astray')), 1);
    return new Promise(() => {}); // what would have settled it is gone
  }`;
  const { child, ended, events } = program(handler, far.env, 'concurrency: 2');
  await far.until(2, 'job-done');
  expect(message(far.posted('astray'))).toEqual(['astray']);
  expect(far.posted('good')).toEqual([{ output: 'good' }]);
  child.kill('SIGTERM'); // it had gone on
  expect(await ended).toMatchObject({ code: 0, err: '' });
  expect(events()).toContainEqual(
    expect.objectContaining({ message: 'unhandled rejection', requestId: 'astray', level: 'WARN' }),
  );
});

test('an exception that nobody catches fails its job; the worker lets the others end, and ends with 1', async () => {
  const far = await farQueue({ 'job-take': jobs('slow', 'astray', 'late') });
  const handler = `async ({ id }) => {
    if (id === 'slow') return new Promise((resolve) => setTimeout(resolve, 200, 'slow'));
    setTimeout(() => { throw new RangeError('nobody caught me'); }, 1);
    return new Promise(() => {});
  }`;
  const { ended } = program(handler, far.env, 'concurrency: 2');
  expect(await ended).toMatchObject({ code: 1, err: expect.stringContaining('nobody caught me') });
  expect(message(far.posted('astray'))).toEqual(['nobody caught me']);
  expect(far.posted('slow')).toEqual([{ output: 'slow' }]);
  expect(far.of('job-done', 'late')).toEqual([]);
});

test('a rejection outside of any job is logged, and the worker goes on', async () => {
  const far = await farQueue({
    'job-take': inTurn(
      (response) => void setTimeout(() => response.writeHead(204).end(), 200),
      json({ id: 'a', input: 1 }),
      hold,
    ),
  });
  const handler = '() => 1';
  const astray = 'fitness: { async astray() { setTimeout(() => void Promise.reject(new Error("mine")), 50); } }';
  const { child, ended, events } = program(handler, far.env, astray);
  await far.until(1, 'job-done');
  child.kill('SIGTERM');
  expect(await ended).toMatchObject({ code: 0 });
  expect(events()).toContainEqual(expect.objectContaining({ message: 'unhandled rejection', requestId: null }));
});

test('SIGTERM while a job runs: it ends, is posted, and the process ends with 0; a second signal ends it at once', async () => {
  const far = await farQueue({ 'job-take': jobs('a') });
  const short = program('() => new Promise((resolve) => setTimeout(resolve, 300, 1))', far.env);
  await far.until(1, 'job-take');
  await new Promise((resolve) =>
    short.child.stdout.on('data', (text) => String(text).includes('job started') && resolve(0)),
  );
  short.child.kill('SIGTERM');
  expect(await short.ended).toMatchObject({ code: 0 });
  expect(far.posted('a')).toEqual([{ output: 1 }]);

  const other = await farQueue({ 'job-take': jobs('b') });
  const long = program('() => new Promise(() => {})', other.env);
  await new Promise((resolve) =>
    long.child.stdout.on('data', (text) => String(text).includes('job started') && resolve(0)),
  );
  long.child.kill('SIGTERM');
  await new Promise((resolve) =>
    long.child.stdout.on('data', (text) => String(text).includes('stopping') && resolve(0)),
  );
  long.child.kill('SIGTERM');
  expect(await long.ended).toMatchObject({ code: 1 });
  expect(other.of('job-done')).toEqual([]);
});
