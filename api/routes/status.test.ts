import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { type TestService, testService } from '../../test/support/test-api.ts';
import { insertTask, newTask } from '../../test/support/test-store.ts';
import type { NewTask } from '../store/task.ts';
import { createTaskIds } from '../tasks/id.ts';

let service: TestService;
beforeAll(async () => {
  service = await testService({ LINK_SECONDS: '3600' });
});
afterAll(() => service.close());

const UUID = '01a22d51-cc9a-70eb-8500-badd68146fcf';
const create = async (body: object = { prompt: 'x' }) => (await (await service.post(body)).json()).id as string;

/** A task that has gone all the way, its job played by this test. */
async function finished() {
  const id = await create();
  const job = await service.take(id);
  service.report(job.id, { output: await service.finish(id, job.id) });
  return service.until(id, ({ status }) => status === 'succeeded');
}

describe('GET /status?id=', () => {
  test('a running task shows its stage, step, progress and still, and never goes back', async () => {
    const id = await create();
    const job = await service.take(id);
    const say = (stage: string, progress: number, more = {}) =>
      service.report(job.id, { status: 'IN_PROGRESS', output: { stage, progress, ...more } });
    say('sampling', 0.2);
    const early = await service.until(id, ({ progress }) => progress === 0.2);
    expect(early).not.toHaveProperty('eta_seconds'); // it would be far too long

    say('sampling', 0.5, { step: 3, steps: 12, still: `tasks/${id}/still.png` });
    const running = await service.until(id, ({ progress }) => progress === 0.5);
    expect(running).toMatchObject({ status: 'running', stage: 'sampling', step: 3, steps: 12 });
    expect(running.still!.link).toContain(`/files/tasks/${id}/still.png?expires=`);
    expect(running.started_at).toMatch(/^\d{4}-.*Z$/);
    expect(running.eta_seconds).toBeGreaterThanOrEqual(0);

    say('loading', 0.2);
    say('decoding', 0.6);
    const later = await service.until(id, ({ stage }) => stage === 'decoding');
    expect(later.progress).toBe(0.6);
    service.report(job.id, { output: await service.finish(id, job.id) });
    const done = await service.until(id, ({ status }) => status === 'succeeded');
    expect(done).toMatchObject({ progress: 1, videos: [{ seed: 1, width: 512, frames: 14, fps: 6 }] });
    expect(done).not.toHaveProperty('stage');
    expect(done.videos![0]).not.toHaveProperty('key');
    const left = Date.parse(done.links_expire_at!) - Date.now();
    expect(left).toBeGreaterThan(3_500_000);
    expect(left).toBeLessThanOrEqual(3_600_000);
  });

  test('an unknown id is 404; an empty id or another parameter is 422', async () => {
    const get = async (query: string) => (await fetch(`${service.url}/status?${query}`)).status;
    expect(await get('id=01a206ec-8c81-72d2-88c2-373f04644e4a')).toBe(404);
    expect(await get("id=' or 1=1 --")).toBe(404);
    expect(await get('id=')).toBe(422);
    expect(await get('ID=5')).toBe(422);
  });

  test('a wrong method is 405 with Allow', async () => {
    const response = await fetch(`${service.url}/status`, { method: 'DELETE' });
    expect([response.status, response.headers.get('allow')]).toEqual([405, 'GET, HEAD']);
    expect((await fetch(`${service.url}/img2vid`)).status).toBe(405);
    expect((await fetch(`${service.url}/nothing`)).status).toBe(404);
  });
});

describe('GET /status', () => {
  let own: TestService;
  let key: Awaited<ReturnType<TestService['key']>>;
  beforeAll(async () => {
    own = await testService({ PUBLIC_URL: 'https://video.example.com' });
    key = await own.key({ requests_per_minute: 60_000, max_active: 10_000 });
  });
  afterAll(() => own.close());
  const get = (query = '', headers = {}) =>
    fetch(`${own.url}/status${query}`, { headers: { ...key.headers, ...headers } });
  const post = (body: object) => own.post(body, { headers: { ...key.headers, 'content-type': 'application/json' } });
  const idsOf = async (response: Response) => ((await response.json()) as { id: string }[]).map(({ id }) => id);
  /** Straight into the store, with these times of creation; their ids in the list's order. */
  async function insert(times: number[], changes: Partial<NewTask> = {}) {
    const tasks = times.map((time) => newTask({ ...createTaskIds(() => time)(), owner: key.id, ...changes }));
    await Promise.all(tasks.map((task) => insertTask(own.store, task)));
    return tasks
      .map(({ id }) => id)
      .sort()
      .reverse();
  }

  test('all tasks are listed, newest first, for any number of pages', async () => {
    expect(await (await get()).text()).toBe('[]');
    let ids: string[] = [];
    for (const count of [1, 98, 1, 100, 5]) {
      const times = Array.from({ length: count }, (_, i) => Date.now() - 1_000_000 + ids.length + i);
      ids = [...(await insert(times)), ...ids];
      expect(await idsOf(await get())).toEqual(ids);
    }
    const posted = await (await post({ prompt: 'the last' })).json();
    expect(posted.created_at).toBe(new Date(Number.parseInt(posted.id.replace('-', ''), 16)).toISOString());
    const [first] = await (await get()).json();
    expect(first).toEqual(posted);
  });

  test('a page has a Link to the next one, except the last', async () => {
    const all = await idsOf(await get());
    for (const size of [100, all.length - 1, all.length, 1000]) {
      const seen: string[] = [];
      let query: string | undefined = `?limit=${size}`;
      for (let page = 0; query !== undefined; page++) {
        if (page === 1) await insert([Date.now()]); // what comes meanwhile changes nothing
        const response: Response = await get(query);
        const ids = await idsOf(response);
        expect(ids).toHaveLength(Math.min(size, all.length - seen.length));
        seen.push(...ids);
        const link = response.headers.get('link');
        query = link?.match(
          /^<https:\/\/video\.example\.com\/status(\?limit=\d+&cursor=[\da-f-]{36})>; rel="next"$/,
        )?.[1];
        expect(query === undefined).toBe(link === null);
      }
      expect(seen).toEqual(all);
      all.unshift(...(await idsOf(await get())).filter((id) => !all.includes(id)));
    }
    const byCursor = await get(`?cursor=${all[3]}`); // 100 unless said otherwise
    expect(byCursor.headers.get('link')).toContain(`/status?cursor=${all[103]}>`);
    expect(await idsOf(byCursor)).toEqual(all.slice(4, 104));
    expect(await idsOf(await get('?limit=100'))).toEqual(all.slice(0, 100));
    expect((await get()).headers.get('link')).toBeNull();
  });

  test('filters by status and time apply, in any time zone, and stay in Link', async () => {
    const at = Date.parse('2001-02-03T04:05:06.789Z');
    const ids = (await insert([at - 1, at, at + 1, at + 2], { status: 'failed' })).reverse();
    const [canceled] = await insert([at + 1], { status: 'canceled' });
    const failed = async (query: string) =>
      (await idsOf(await get(`?status=failed&${query}`))).map((id) => ids.indexOf(id)).reverse();
    for (const time of [
      '2001-02-03T04:05:06.789Z',
      '2001-02-03T06:05:06.789%2B02:00',
      '2001-02-03T06:05:06.789+0200',
      '2001-02-02t20:05:06.7890-08:00',
    ]) {
      expect(await failed(`since=${time}`), time).toEqual([1, 2, 3]);
      expect(await failed(`until=${time}`), time).toEqual([0]);
    }
    expect(await failed('since=2001-02-03T04:05:06.7890001Z')).toEqual([2, 3]);
    expect(await failed('until=2001-02-03T04:05:06.7890001Z')).toEqual([0, 1]);
    expect(await failed('since=2001-02-03T04:05:06.789Z&until=2001-02-03T04:05:06.791Z')).toEqual([1, 2]);
    expect(await failed('since=2001-02-03T04:05:07Z')).toEqual([]);
    expect(await failed('since=2001-02-03T04:05Z&until=0001-01-01T00:00:00Z')).toEqual([]);
    expect(await failed('since=0001-01-01T00:00:00Z')).toEqual([0, 1, 2, 3]);
    expect(await idsOf(await get('?until=2001-12-31T00:00:00Z&status=canceled'))).toEqual([canceled]);

    const page = await get('?status=failed&until=2001-02-03T07:05:06.791%2B03:00&limit=2');
    expect((await idsOf(page.clone())).map((id) => ids.indexOf(id))).toEqual([2, 1]);
    const next = page.headers.get('link')!.match(/<https:\/\/video\.example\.com\/status(.*)>; rel="next"/)![1]!;
    const last = await get(next);
    expect((await idsOf(last)).map((id) => ids.indexOf(id))).toEqual([0]);
    expect(last.headers.get('link')).toBeNull();
  });

  test.each([
    ['limit=0', 'limit', /^must be a whole number from 1 to 1000$/],
    ['limit=1001', 'limit', /1 to 1000/],
    ['limit=', 'limit', /1 to 1000/],
    ['limit=1e2', 'limit', /1 to 1000/],
    ['limit=-5', 'limit', /1 to 1000/],
    ['cursor=x', 'cursor', /cursor from the Link header/],
    ['cursor=01A206EC-8C81-72D2-88C2-373F04644E4A', 'cursor', /cursor from the Link header/],
    ['cursor=01a206ec-8c81-42d2-88c2-373f04644e4a', 'cursor', /cursor from the Link header/],
    ['status=done', 'status', /^must be one of queued, running, succeeded, failed, canceled$/],
    ['since=yesterday', 'since', /ISO 8601 time with its zone/],
    ['since=2026-01-01', 'since', /zone/],
    ['since=2026-01-01T00:00:00', 'since', /zone/],
    ['since=2026-02-30T00:00:00Z', 'since', /zone/],
    ['since=2026-13-01T00:00:00Z', 'since', /zone/],
    ['until=2026-01-01T25:00:00Z', 'until', /zone/],
    ['until=2026-01-01T00:00:00%2B99:00', 'until', /zone/],
    ['until=1767225600', 'until', /zone/],
    ['until=', 'until', /zone/],
    ['statuss=failed', 'statuss', /^unknown; did you mean status\?$/],
    ['LIMIT=5', 'LIMIT', /^unknown; did you mean limit\?$/],
    ['__proto__=5', '__proto__', /^unknown/],
    ['colour=red', 'colour', /^unknown$/],
    ['limit=5&limit=6', 'limit', /^given more than once$/],
    ['id=01a206ec-8c81-72d2-88c2-373f04644e4a&status=failed', 'status', /^is only for the list/],
  ])('?%s is refused', async (query, field, message) => {
    const response = await get(`?${query}`);
    expect(response.status).toBe(422);
    expect((await response.json()).errors).toEqual([{ field, message: expect.stringMatching(message) }]);
  });

  test('all invalid parameters are reported at once', async () => {
    const { errors } = await (await get('?limit=0&since=x&status=y&unti=z')).json();
    expect(errors.map(({ field }: { field: string }) => field).sort()).toEqual(['limit', 'since', 'status', 'unti']);
  });

  test('tasks of another API key can’t be reached by id, events, list, cursor or still_of', async () => {
    const [theirs] = await insert([Date.now()], { owner: 'another', status: 'succeeded' });
    await own.bucket.put(`tasks/${theirs}/imagine-1.png`, 'x');
    const [mine] = await insert([Date.now() + 1]);
    expect((await get(`?id=${theirs}`)).status).toBe(404);
    expect((await get(`?id=${theirs}`, { accept: 'text/event-stream' })).status).toBe(404);
    expect((await post({ still_of: theirs })).status).toBe(422);
    const all = await idsOf(await get());
    expect(all).not.toContain(theirs);
    expect(await idsOf(await get(`?cursor=${theirs}&limit=1`))).toEqual([all[all.indexOf(mine!) + 1]]);
    expect(await idsOf(await get('?limit=1000'))).toEqual(all);
  });

  /** @param spyOn gets a function that returns the number of turns of the event loop so far */
  async function readCountingTurns(query: string, spyOn: (turn: () => number) => { mockRestore: () => void }) {
    let turn = 0;
    let counter = setImmediate(function count() {
      turn++;
      counter = setImmediate(count);
    });
    const spy = spyOn(() => turn);
    try {
      await (await get(query)).text();
    } finally {
      clearImmediate(counter);
      spy.mockRestore();
    }
  }

  test('other requests run between two pages of a long list', async () => {
    await insert(Array.from({ length: 201 }, (_, i) => Date.now() - i)); // three pages
    const turns: number[] = [];
    const { list } = own.store;
    await readCountingTurns('', (turn) =>
      vi.spyOn(own.store, 'list').mockImplementation((selection) => {
        turns.push(turn());
        return list(selection);
      }),
    );
    expect(turns.length).toBeGreaterThan(2);
    expect(new Set(turns).size).toBe(turns.length);
  });

  test.each(['', '&limit=1000'])('other requests run between every few tasks of a list, with %j', async (query) => {
    const at = Date.parse('2002-02-03T04:05:06Z') + query.length * 1000;
    const times = Array.from({ length: 40 }, (_, i) => at + i);
    await insert(times, { status: 'succeeded', still: 'tasks/a/still.png' });
    const turns: number[] = []; // of each link
    const { link } = own.bucket;
    await readCountingTurns(
      `?since=${new Date(at).toISOString()}&until=${new Date(at + 40).toISOString()}${query}`,
      (turn) =>
        vi.spyOn(own.bucket, 'link').mockImplementation((...options) => {
          turns.push(turn());
          return link(...options);
        }),
    );
    expect(turns).toHaveLength(40);
    for (const turn of turns) expect(turns.filter((other) => other === turn).length).toBeLessThanOrEqual(4);
  });

  test('of many lists at once one page is read at a time, and another API key’s list takes its turns between them', async () => {
    const other = await own.key();
    await insert([Date.now()], { owner: other.id });
    await insert(Array.from({ length: 201 }, (_, i) => Date.now() - i)); // three pages
    const { list } = own.store;
    const owners: string[] = [];
    let running = 0;
    const keys = vi.spyOn(own.store, 'getKey');
    const hasArrived = () => vi.waitFor(() => expect(keys).toHaveBeenCalledWith(other.id));
    const spy = vi.spyOn(own.store, 'list').mockImplementation(async (selection) => {
      expect(++running).toBe(1);
      owners.push(selection.owner);
      if (owners.length === 1) await hasArrived(); // no turn ends before all wait
      const tasks = await list(selection);
      running--;
      return tasks;
    });
    try {
      const lists = Array.from({ length: 30 }, async () => (await get()).text());
      await vi.waitFor(() => expect(owners.length).toBeGreaterThan(0));
      lists.push(fetch(`${own.url}/status`, other).then((response) => response.text()));
      await Promise.all(lists);
    } finally {
      spy.mockRestore();
      keys.mockRestore();
    }
    expect(owners.length).toBeGreaterThan(60);
    expect(owners.indexOf(other.id)).toBeLessThan(30); // in the order of arrival it would be the 31st page at the earliest
  });

  test('a store that fails within a list breaks the connection; one that fails at once is an error', async () => {
    const { list } = own.store;
    let works = 1;
    const spy = vi.spyOn(own.store, 'list').mockImplementation(async (selection) => {
      if (works-- > 0) return list(selection);
      throw new Error('the disk is gone');
    });
    try {
      const response = await get();
      expect(response.status).toBe(200);
      await expect(response.text()).rejects.toThrow(/terminated/);
      const refused = await get();
      expect([refused.status, (await refused.json()).code]).toEqual([500, 'internal']);
    } finally {
      spy.mockRestore();
    }
  });
});

test('an id in capitals is the same id', async () => {
  const id = await create();
  const query = `?id=${id.toUpperCase()}`;
  expect((await fetch(`${service.url}/status${query}`)).status).toBe(200);
  const stillOf = await service.post({ still_of: id.toUpperCase() });
  expect((await stillOf.json()).errors[0].message).toContain('whose pictures are kept'); // it is found, but has none yet
  expect((await fetch(`${service.url}/cancel${query}`, { method: 'POST' })).status).toBe(202);
});

test('a wrong call is answered with the right one', async () => {
  const detail = async (path: string, method = 'GET') =>
    (await (await fetch(service.url + path, { method })).json()) as object;
  for (const [path, method, text] of [
    ['/status/abc', 'GET', 'no such path; the id belongs in the query: /status?id=abc'],
    ['/status?id=abc', 'DELETE', 'use GET or HEAD /status; to delete a task’s files and prompt, use DELETE /tasks/abc'],
    ['/usage?id=abc', 'DELETE', 'use GET or HEAD /usage'],
    ['/img2vid', 'GET', 'use POST /img2vid'],
    ['/tasks/abc', 'PUT', 'use GET or HEAD or DELETE /tasks/ID'],
    ['/img2video', 'POST', 'no such path; did you mean POST /img2vid?'],
    ['/v2/img2vid/', 'GET', 'no such path; did you mean POST /img2vid?'],
    ['/task', 'POST', 'no such path; did you mean POST /tasks?'],
    ['/task', 'GET', 'no such path; did you mean GET /tasks?'],
    [`/tasks/${UUID}/retry`, 'POST', `no such path; did you mean GET /tasks/${UUID}?`],
    ['/tasks/abc/delete', 'POST', 'no such path; did you mean DELETE /tasks/abc?'],
    ['/tasks/abc/cancle', 'POST', 'no such path; did you mean POST /tasks/abc/cancel?'],
    ['/tasks//cancel', 'POST', 'no such path; did you mean POST /tasks/ID/cancel?'],
    ['/nothing/like/it', 'GET', 'no such path; see /docs'],
    ['/.well-known/oauth-protected-resource', 'GET', 'no such path; see /docs'],
    ['/clips/01a22d51-bc23-7087-afa8-52727e01c81c', 'GET', 'no such path; see /docs'],
    ['/taks/01a22d51', 'GET', 'no such path; did you mean GET /tasks/01a22d51?'],
    [`/${'x'.repeat(5000)}`, 'GET', 'no such path; see /docs'],
    ['/runpod/callback', 'POST', 'no such path; see /docs'],
  ] as const)
    expect(await detail(path, method), path).toMatchObject({ detail: text });
  expect(await detail('/cancel', 'POST')).toMatchObject({
    errors: [{ field: 'id', message: 'is required in the query' }],
  });
});

describe('server-sent events', () => {
  const events = (id: string, headers = {}) =>
    fetch(`${service.url}/status?id=${id}`, { headers: { accept: 'text/event-stream', ...headers } });
  const parse = (text: string) =>
    text
      .split('\n\n')
      .filter((block) => block.startsWith('event: task'))
      .map((block) => {
        const fields = Object.fromEntries(block.split('\n').map((line) => line.split(/: (.*)/s) as [string, string]));
        return { id: fields.id!, task: JSON.parse(fields.data!) };
      });

  test('each change sends the whole task, until it ends; then a reconnect gets 204', async () => {
    const id = await create();
    const response = await events(id);
    expect(response.headers.get('content-type')).toMatch(/^text\/event-stream/);
    let text = '';
    const chunks = response.body!.pipeThrough(new TextDecoderStream()).values();
    const reach = async (part: string) => {
      while (!text.includes(part)) text += (await chunks.next()).value;
    };
    await reach('"status":"queued"');
    const job = await service.take(id);
    service.report(job.id, { status: 'IN_PROGRESS', output: { stage: 'sampling', progress: 0.3 } });
    await reach('"progress":0.3');
    service.report(job.id, { output: await service.finish(id, job.id) });
    for await (const chunk of chunks) text += chunk; // the stream ends with the task
    const seen = parse(text);
    expect(seen[0]!.task).toMatchObject({ id, status: 'queued' });
    expect(seen.map(({ task }) => task.progress)).toContain(0.3);
    expect(seen.at(-1)!.task).toMatchObject({ id, status: 'succeeded' });
    expect(new Set(seen.map((event) => event.id)).size).toBe(seen.length);

    expect((await events(id, { 'last-event-id': seen.at(-1)!.id })).status).toBe(204);
    const missed = parse(await (await events(id, { 'last-event-id': seen[0]!.id })).text());
    expect(missed.map(({ task }) => task.status)).toEqual(['succeeded']); // who missed the end still gets it
  });

  test('a callback and the expiry after the end do not repeat the end to a client that reconnects', async () => {
    const { id } = await finished();
    const { id: lastEventId } = parse(await (await events(id)).text()).at(-1)!;
    const ended = (await service.store.get(id))!;
    service.lifecycle.onCallback(ended, undefined);
    await vi.waitFor(async () => expect((await service.store.get(id))!.version).toBeGreaterThan(ended.version));
    expect((await events(id, { 'last-event-id': lastEventId })).status).toBe(204);
    await service.lifecycle.expire((await service.store.get(id))!);
    expect((await events(id, { 'last-event-id': lastEventId })).status).toBe(204);
  });

  test('without changes comments are sent, and the task stays watched', async () => {
    const id = await create();
    const { setTimeout: real } = globalThis;
    const timer = vi.spyOn(globalThis, 'setTimeout');
    timer.mockImplementation(((call: () => void, ms: number, ...more: []) =>
      real(call, ms === 15_000 ? 1 : ms, ...more)) as typeof setTimeout);
    const watch = vi.spyOn(service.lifecycle, 'watch');
    const gone = new AbortController();
    let text = '';
    const stream = await fetch(`${service.url}/status?id=${id}`, {
      headers: { accept: 'text/event-stream' },
      signal: gone.signal,
    });
    try {
      for await (const part of stream.body!.pipeThrough(new TextDecoderStream())) {
        text += part;
        if (text.endsWith(': still here\n\n: still here\n\n')) break;
      }
      expect(watch.mock.calls.filter(([task]) => task.id === id).length).toBeGreaterThan(1);
    } finally {
      gone.abort();
      timer.mockRestore();
      watch.mockRestore();
    }
    expect(parse(text)).toHaveLength(1);
  });

  test('Accept chooses events by its weights, in any case', async () => {
    const id = await create();
    const typeFor = async (accept: string) => {
      const gone = new AbortController();
      const response = await fetch(`${service.url}/status?id=${id}`, { headers: { accept }, signal: gone.signal });
      gone.abort();
      return response.headers.get('content-type');
    };
    for (const accept of [
      'Text/Event-Stream',
      'application/json;q=0.5, text/event-stream',
      'application/json, text/event-stream',
    ])
      expect(await typeFor(accept), accept).toMatch(/^text\/event-stream/);
    for (const accept of [
      'text/event-stream;q=0',
      'text/event-stream;q=0.1, application/json',
      '*/*',
      'x-text/event-stream',
    ])
      expect(await typeFor(accept), accept).toBe('application/json');
  });

  test('a HEAD request opens no stream', async () => {
    const head = { method: 'HEAD', headers: { accept: 'text/event-stream' } };
    const response = await fetch(`${service.url}/status?id=${await create()}`, head);
    expect([response.status, response.headers.get('content-type')]).toEqual([200, 'application/json']);
  });

  test('events of an unknown task are 404', async () => {
    expect((await events('nothing')).status).toBe(404);
  });
});

describe('GET /files', () => {
  test('a link returns the file, a range of it, and its size', async () => {
    const { link } = (await finished()).videos![0]!;
    const whole = await fetch(link);
    expect(await whole.text()).toBe('not really a video');
    expect(Object.fromEntries(whole.headers)).toMatchObject({
      'content-type': 'video/mp4',
      'content-length': '18',
      'accept-ranges': 'bytes',
      'x-content-type-options': 'nosniff',
      'content-disposition': 'inline; filename="x-1.mp4"',
    });
    const get = async (range: string, headers = {}) => {
      const response = await fetch(link, { headers: { range, ...headers } });
      return [response.status, response.headers.get('content-range'), await response.text()];
    };
    expect(await get('bytes=4-9')).toEqual([206, 'bytes 4-9/18', 'really']);
    expect(await get('bytes=-5')).toEqual([206, 'bytes 13-17/18', 'video']);
    expect(await get('bytes=13-')).toEqual([206, 'bytes 13-17/18', 'video']);
    expect(await get('bytes=0-9999')).toEqual([206, 'bytes 0-17/18', 'not really a video']);
    expect(await get('bytes=0-1,5-6')).toEqual([200, null, 'not really a video']);
    expect(await get('lines=0-1')).toEqual([200, null, 'not really a video']);
    expect(await get('bytes=4-9', { 'if-range': '"other"' })).toEqual([200, null, 'not really a video']);
    expect((await get('bytes=18-')).slice(0, 2)).toEqual([416, 'bytes */18']);
    const etag = whole.headers.get('etag')!;
    expect((await fetch(link, { headers: { 'if-none-match': etag } })).status).toBe(304);
    const head = await fetch(link, { method: 'HEAD' });
    expect([head.status, head.headers.get('content-length'), await head.text()]).toEqual([200, '18', '']);
  });

  test('a changed, unsigned or expired link is refused, and uploads are never served', async () => {
    const task = await finished();
    const link = new URL(task.videos![0]!.link);
    const changed = (change: (url: URL) => void) => {
      const url = new URL(link);
      change(url);
      return fetch(url);
    };
    const refused = [
      changed((url) => url.searchParams.set('expires', String(Number(url.searchParams.get('expires')) + 1))),
      changed((url) => url.searchParams.set('signature', 'A'.repeat(43))),
      changed((url) => url.searchParams.delete('signature')),
      changed((url) => {
        url.search = '';
      }),
      changed((url) => {
        url.pathname = url.pathname.replace('video-1', 'video-2');
      }),
      changed((url) => {
        url.pathname = `/files/..%2f..%2ftasks.db`;
      }),
    ];
    for (const response of await Promise.all(refused)) expect(response.status).toBe(403);

    service.clock.ahead += 3_601_000;
    expect((await fetch(link)).status).toBe(403);
    service.clock.ahead = 0;

    const upload = await service.bucket.link(`tasks/${task.id}/upload`, Math.floor(Date.now() / 1000) + 60);
    await service.bucket.put(`tasks/${task.id}/upload`, '<script>');
    expect((await fetch(upload)).status).toBe(404);
  });
});

test('the OpenAPI document has every parameter, with default and range', async () => {
  const document = await (await fetch(`${service.url}/openapi.json`)).json();
  expect(document.openapi).toBe('3.1.0');
  const { properties } = document.components.schemas.Request;
  const { input } = await service.status(await create());
  for (const name of Object.keys(input)) expect(properties, name).toHaveProperty(name);
  expect(properties.seed).toMatchObject({ type: 'integer', minimum: 0, maximum: 1e9, description: expect.any(String) });
  expect(properties.T).toMatchObject({ maximum: 100, default: 73 });
  expect(properties.sigma_min).toMatchObject({ exclusiveMinimum: 0, default: 0.002 });
  expect(properties.order).toMatchObject({ default: 4, 'x-belongs-to': { sampler: ['LinearMultistepSampler'] } });
  expect(properties.cfg_scale).toMatchObject({ default: 5, 'x-belongs-to': { guider: ['VanillaCFG'] } });
  expect(properties.eta.description).toContain('Only for sampler EulerAncestralSampler, DPMPP2SAncestralSampler');
  expect(properties.fit.enum).toEqual(['cover', 'contain', 'stretch']);
  expect(properties.H.anyOf).toEqual([{ multipleOf: 64 }, { enum: [480, 848] }]);
  expect((await (await fetch(`${service.url}/healthz`)).json()).status).toBe('ok');
});
