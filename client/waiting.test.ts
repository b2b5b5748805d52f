/** Retries and timeouts of the client, with fake timers. No service runs here: fake timers would stop it, too. */
import { afterEach, expect, test, vi } from 'vitest';
import { problem, scripted } from '../test/support/test-client.ts';
import { createClient } from './index.ts';

afterEach(() => vi.useRealTimers());

const json = (body: object, init: ResponseInit = {}) =>
  new Response(JSON.stringify(body), { headers: { 'content-type': 'application/json' }, ...init });

test('retries have growing pauses, at least Retry-After, and a limit; permanent errors are not retried', async () => {
  for (const refusal of [
    problem(422, 'invalid_input'),
    problem(409, 'ended'),
    problem(500, 'internal'),
    problem(429, 'too_many_requests', { 'retry-after': '3600' }),
  ]) {
    const once = scripted(refusal);
    await expect(once.client.cancel('a')).rejects.toMatchObject({ status: refusal.status });
    expect(once.send).toHaveBeenCalledTimes(1);
  }

  vi.useFakeTimers();
  const limited = scripted(problem(429, 'too_many_open', { 'retry-after': '10' }), json({ id: 'a' }));
  const status = limited.client.status('a');
  await vi.advanceTimersByTimeAsync(9_999);
  expect(limited.send).toHaveBeenCalledTimes(1);
  await vi.advanceTimersByTimeAsync(1);
  expect(await status).toEqual({ id: 'a' });

  const date = scripted(
    problem(503, 'unavailable', { 'retry-after': new Date(Date.now() + 7_000).toUTCString() }),
    json({ id: 'a' }),
  );
  const later = date.client.status('a');
  await vi.advanceTimersByTimeAsync(5_000);
  expect(date.send).toHaveBeenCalledTimes(1);
  await vi.advanceTimersByTimeAsync(3_000);
  expect(await later).toEqual({ id: 'a' });

  const down = scripted(...Array(5).fill(new TypeError('fetch failed', { cause: { code: 'ECONNREFUSED' } })));
  const failing = expect(down.client.status('a')).rejects.toMatchObject({
    code: 'unreachable',
    status: 0,
    message: 'http://api.example can’t be reached: ECONNREFUSED',
  });
  await vi.advanceTimersByTimeAsync(3_700); // of 0.5 + 1 + 2 + 4 s at least half
  expect(down.send.mock.calls.length).toBeLessThan(5);
  await vi.advanceTimersByTimeAsync(3_800);
  await failing;
  expect(down.send).toHaveBeenCalledTimes(5);
});

/** An event stream with this text, which then fails or stays silent. */
const stream = (text: string, then: 'fails' | 'waits') =>
  new Response(
    new ReadableStream({
      start: (controller) => controller.enqueue(new TextEncoder().encode(text)),
      pull: (controller) => (then === 'fails' ? controller.error(new Error('reset')) : new Promise(() => {})),
    }),
    { headers: { 'content-type': 'text/event-stream' } },
  );
const event = (id: number, task: object) => `event: task\ndata: ${JSON.stringify(task)}\nid: ${id}\n\n`;

test('a broken or silent event stream is reconnected after the last event', async () => {
  vi.useFakeTimers();
  const { client, send } = scripted(
    stream(event(1, { status: 'queued' }), 'fails'),
    new TypeError('fetch failed'),
    stream(`${event(2, { status: 'running' })}: still here\n\n`, 'waits'),
    stream(event(3, { status: 'succeeded' }), 'waits'),
  );
  const seen: string[] = [];
  const following = (async () => {
    for await (const { status } of client.follow('a')) seen.push(status);
  })();
  await vi.advanceTimersByTimeAsync(3_000); // 1 s, 2 s
  expect(seen).toEqual(['queued', 'running']);
  await vi.advanceTimersByTimeAsync(44_000);
  expect(send).toHaveBeenCalledTimes(3);
  await vi.advanceTimersByTimeAsync(2_000);
  await following;
  expect(seen).toEqual(['queued', 'running', 'succeeded']);
  const last = send.mock.calls.map(([, init]) => new Headers(init!.headers).get('last-event-id'));
  expect(last).toEqual([null, '1', '1', '2']);
});

test('an event stream ends with an error when it is refused, and after the retry budget without data', async () => {
  const refused = scripted(problem(404, 'not_found'));
  await expect(refused.client.follow('a').done()).rejects.toMatchObject({ code: 'not_found' });

  vi.useFakeTimers();
  const send = vi.fn<typeof fetch>(async () => Promise.reject(new TypeError('fetch failed')));
  const breaks = vi.fn();
  const lost = createClient({ url: 'http://api.example', fetch: send, retryBudget: 60_000, onBreak: breaks });
  const giving = expect(lost.follow('a').done()).rejects.toMatchObject({ code: 'unreachable' });
  await vi.advanceTimersByTimeAsync(120_000);
  await giving;
  expect(send.mock.calls.length).toBeGreaterThan(4);
  expect(breaks).toHaveBeenCalledTimes(send.mock.calls.length - 1);
});
