/**
 * One suite for this worker and RunPod's own for Python: real processes with the same handlers (testdata) get the same jobs from the queue
 * simulator. Each scenario runs once for each worker. The tests check the requests that it has recorded and how its jobs have ended.
 */
import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { freePort } from '../../infra/run/free-port.ts';
import { KEY, type RecordedRequest } from '../../test/support/test-worker.ts';
import {
  type Fault,
  killWorkers,
  type Side,
  skipped,
  startRecordingServer,
  startWorkerProcess,
  type WorkerProcess,
} from '../../test/support/worker-conformance.ts';

const servers: { close: () => Promise<void> }[] = [];
afterAll(async () => {
  await killWorkers();
  await Promise.all(servers.map((server) => server.close()));
});

async function openServer(options?: Parameters<typeof startRecordingServer>[0]) {
  const server = await startRecordingServer(options);
  servers.push(server);
  return server;
}

/** What handlers return, and what both workers then post. */
const RETURNED: [unknown, object][] = [
  [null, { output: null }],
  ['text', { output: 'text' }],
  ['', { output: '' }],
  ['héllo "☃"\n', { output: 'héllo "☃"\n' }],
  [5, { output: 5 }],
  [0, { output: 0 }],
  [1.5e-9, { output: 1.5e-9 }],
  [true, { output: true }],
  [false, { output: false }],
  [[1, { error: 'in a list' }], { output: [1, { error: 'in a list' }] }],
  [[], { output: [] }],
  [{}, {}],
  [{ a: { error: 'deeper' } }, { output: { a: { error: 'deeper' } } }],
  [{ output: 1 }, { output: { output: 1 } }],
  [{ status: 'IN_QUEUE' }, { output: { status: 'IN_QUEUE' } }],
  [{ error: '' }, {}],
  [{ error: null, a: 1 }, { output: { a: 1 } }],
  [{ error: 0 }, {}],
  [{ error: 'm' }, { error: 'm' }],
  [
    { error: 'm', detail: 1 },
    { output: { detail: 1 }, error: 'm' },
  ],
  [
    { refresh_worker: true, ok: 1 },
    { output: { ok: 1 }, stopPod: true },
  ],
  [
    { refresh_worker: true, error: 'm' },
    { error: 'm', stopPod: true },
  ],
  [{ refresh_worker: false, ok: 1 }, { output: { ok: 1 } }],
];

const SLOTS = 60;
const LARGE = { output: 10_000_001, chunk: 1_000_001 }; // bytes

const isTake = ({ operation }: RecordedRequest) => operation.startsWith('job-take');
const jobIds = ({ query }: RecordedRequest) => query.get('job_id')?.split(',') ?? [];
const duration = (requests: RecordedRequest[]) => requests.at(-1)!.at - requests[0]!.at;

/** A worker with many slots, from its start to SIGTERM while a job runs. It has over 100 lines, because it is the story of one process. */
async function plainScenario(side: Side) {
  const server = await openServer(PACE[side]);
  const done = new Map<string, (nth: number) => Fault | undefined | Promise<undefined>>(); // faults of job-done by job
  let take: ((request: RecordedRequest) => Fault | undefined) | undefined;
  server.fault = (request) => {
    if (isTake(request)) return take?.(request);
    return request.operation === 'job-done'
      ? done.get(request.id!)?.(server.requests('job-done', request.id).length)
      : undefined;
  };
  /** The next `count` takes get this answer. @returns them, when they have been answered */
  async function answerTakes(
    count: number,
    answer: (request: RecordedRequest, nth: number) => Fault,
  ): Promise<RecordedRequest[]> {
    const faulty: RecordedRequest[] = [];
    take = (request) => {
      if (faulty.length === count) return undefined;
      faulty.push(request);
      return answer(request, faulty.length - 1);
    };
    await server.waitFor(`${count} takes`, () => faulty.length === count && faulty.every(({ end }) => end));
    take = undefined;
    return faulty;
  }

  // Many jobs, all there from the start.
  const returned = RETURNED.map(([value]) => server.submit({ do: 'return', value }));
  const errorObject = server.submit({ do: 'return', value: { error: { code: 1 } } });
  const thrown = server.submit({ do: 'throw', message: 'boom' });
  const notANumber = server.submit({ do: 'return NaN' });
  const unserialisable = server.submit({ do: 'return what JSON cannot express' });
  const tooLarge = server.submit({ do: 'return much', bytes: LARGE.output });
  const reported = server.submit({ do: 'report', values: [{ step: 1 }], gate: 'seen' });
  const reportedMuch = server.submit({ do: 'report', values: Array.from({ length: 20 }, (_, n) => n + 1) });
  const failedOnce = server.submit({ do: 'return', value: 'failed once' });
  const limited = server.submit({ do: 'return', value: 'limited' });
  const reset = server.submit({ do: 'return', value: 'reset' });
  let isLimited = true;
  done.set(reportedMuch, (nth) => (nth === 1 ? delay(300) : undefined));
  done.set(failedOnce, (nth) => (nth === 1 ? 500 : undefined));
  done.set(limited, () => (isLimited ? 429 : undefined));
  done.set(reset, (nth) => (nth === 1 ? 'reset' : undefined));

  const worker = await startWorkerProcess({ side, env: server.env, options: { concurrency: SLOTS } });
  await server.waitFor('progress', () => server.posted(reported).length > 0 && server.queue.find(reported)?.output);
  const progressOutput = server.queue.find(reported)!.output;
  server.open('seen');
  await server.waitFor('limited', () => server.requests('job-done', limited).length > 0);
  const afterLimited = (await server.nextPings(2))[1]!;
  isLimited = false;
  await server.waitForEnd(...returned, thrown, reported, reportedMuch, failedOnce);
  await server.waitFor('an idle ping', () => server.requests('ping').some((ping) => jobIds(ping).length === 0));

  // Active jobs.
  const [a, b] = ['a', 'b'].map((gate) => server.submit({ do: 'wait', gate })) as [string, string];
  await Promise.all([server.waitForGate('a'), server.waitForGate('b')]);
  const both = await server.waitFor('a ping with just these', () =>
    server
      .requests('ping')
      .find((ping) => jobIds(ping).length === 2 && [a, b].every((id) => jobIds(ping).includes(id))),
  );
  const busyTake = await server.waitFor('a take while both are active', () =>
    server.requests('job-take').find(({ at, query }) => at > both.at && query.get('job_in_progress') === '1'),
  );

  // One is stopped: the other goes on, and the slot is free.
  server.queue.cancel(server.queue.find(b)!);
  await server.waitFor('the end of the stopped job', () => server.gate('b').disconnected > 0);
  const afterStop = await server.waitFor('a take with the slot of the stopped job', () =>
    server
      .requests('job-take')
      .find(({ at, query }) => at > busyTake.at && query.get('batch_size') === String(SLOTS - 1)),
  );
  const next = server.submit({ do: 'return', value: 'next' });
  await server.waitForEnd(next);
  const isHeld = server.status(a) === 'IN_PROGRESS';

  // An active job is given again; one has no input.
  const again = { id: a, input: { do: 'wait', gate: 'a' } };
  await answerTakes(1, ({ operation }) => ({
    json: operation === 'job-take-batch' ? [again, { id: 'empty' }] : again,
  }));
  await server.waitFor('an answer for the job without input', () => server.posted('empty').length > 0);
  await server.nextPings(1);
  if (side === 'python') await server.waitFor('the second run', () => server.gate('a').arrived > 1); // on a busy machine later than the ping
  const runs = server.gate('a').arrived;
  server.open('a');
  await server.waitForEnd(a);

  // A job that ignores its signal is stopped.
  const ignoring = server.submit({ do: 'wait without signal', gate: 'ignoring' });
  await server.waitForGate('ignoring');
  server.queue.cancel(server.queue.find(ignoring)!);
  await server.waitFor(
    'the answers to both stop polls',
    () => server.requests('job-stop').filter(({ status, end }) => status === 200 && end).length === 2,
  );
  const afterIgnored = (await server.nextPings(2))[1]!;
  const disconnected = server.gate('ignoring').disconnected;
  server.open('ignoring');
  await server.waitFor('a ping without it', () => !jobIds(server.requests('ping').at(-1)!).includes(ignoring));

  // One blocks the thread.
  const blocking = server.submit({ do: 'block', gate: 'block' });
  await server.waitForGate('block');
  const whileBlocked = await server.nextPings(2);
  server.open('block');
  await server.waitForEnd(blocking);

  // Trouble at the server end.
  const failing = await answerTakes(4, (_, nth) => [500, 401, 'reset' as const, 503][nth]!);
  const empty = await answerTakes(4, () => 204);

  // The end.
  const last = server.submit({ do: 'wait', gate: 'last' });
  await server.waitForGate('last');
  worker.signal('SIGTERM');
  await worker.printed(STOPPING[side]);
  if (side === 'python') worker.signal('SIGTERM');
  server.open('last');
  await server.waitForEnd(last);
  const code = await worker.exited;

  return {
    ...{
      server,
      returned,
      errorObject,
      thrown,
      notANumber,
      unserialisable,
      tooLarge,
      reported,
      reportedMuch,
      progressOutput,
    },
    ...{ failedOnce, limited, afterLimited, reset, a, b, both, busyTake, afterStop, next, isHeld, runs },
    ...{ ignoring, afterIgnored, disconnected, blocking, whileBlocked, failing, empty, last, code },
  };
}

/** A worker whose slots become fewer: many, two, one. */
async function slotsScenario(side: Side) {
  const server = await openServer(PACE[side]);
  const worker = await startWorkerProcess({ side, env: server.env, options: { concurrency: SLOTS } });
  const running = server.submit({ do: 'wait', gate: 'running' });
  await server.waitForGate('running');
  await server.waitForEnd(server.submit({ do: 'set concurrency', value: 2 }));
  await server.waitFor('the end of the poll with many slots', () =>
    server.requests('job-take').every(({ end, query }) => end || query.get('batch_size') === null),
  );
  const waiting = server.submit({ do: 'return', value: 'waiting' });
  await Promise.race([server.waitForEnd(waiting), delay(1500)]);
  const whileRunning = server.status(waiting);
  server.open('running');
  await server.waitForEnd(running, waiting);
  const smaller = await server.waitFor('a smaller take', () =>
    server.requests('job-take').find(({ query }) => query.get('batch_size') === '2'),
  );
  const last = server.submit({ do: 'set concurrency', value: 1 });
  await server.waitForEnd(last);
  const single = await server.waitFor('a single take', () =>
    server
      .requests('job-take')
      .find(({ at, operation }) => at > server.requests('job-done', last)[0]!.at && operation === 'job-take'),
  );
  const full = ['x', 'y', 'z'].map((value) => server.submit({ do: 'return', value }));
  await server.waitForEnd(...full);
  worker.signal('SIGTERM');
  return { server, whileRunning, smaller, single, full, code: await worker.exited };
}

/** Milliseconds. Python's shortest interval is a second; the other is quicker, to save time. */
const PACE = { python: { pingInterval: 1000, pollTimeout: 700 }, ours: { pingInterval: 300, pollTimeout: 300 } };
const STOPPING = { python: 'Kill worker.', ours: '"stopping"' };

const GENERATED = {
  chunks: { chunks: ['a', { b: 2 }, null, [3]] },
  none: { chunks: [] },
  error: { chunks: [1, { error: 'bad' }, 2] },
  errorObject: { chunks: [{ error: { code: 1 } }] },
  throws: { chunks: [1], throw: 'boom' },
  tooLarge: { chunks: [1], bytes: LARGE.chunk },
};

/** A worker whose handler is a generator. It is idle when SIGTERM comes, and then there is one more job. */
async function generatorScenario(side: Side) {
  const server = await openServer({ pollTimeout: 2000 });
  const jobs = Object.fromEntries(
    Object.entries(GENERATED).map(([name, input]) => [name, server.submit(input)]),
  ) as Record<keyof typeof GENERATED, string>;
  server.fault = ({ operation, id }) =>
    operation === 'job-stream' && id === jobs.chunks && server.requests('job-stream', id).length === 1
      ? 500
      : undefined;
  const worker = await startWorkerProcess({ side, env: server.env, options: { generator: true, concurrency: 10 } });
  await server.waitForEnd(...Object.values(jobs));
  const held = () => server.recorded.filter(({ end, operation }) => !end && /^job-(take|stop)/.test(operation));
  const polls = await server.waitFor('two new polls', () => {
    const both = held();
    return both.length === 2 && both.every(({ at }) => performance.now() - at < 500) && both;
  });
  worker.signal('SIGTERM');
  if (side === 'python') {
    await worker.printed(STOPPING[side]);
    await delay(500); // until the loop that runs jobs has ended: it checks every 0.1 s
  } else await server.waitFor('the end of the polls', () => polls.every(({ end }) => end));
  const late = server.submit({ chunks: [] });
  const code = await worker.exited;
  await server.waitFor('the end of the polls', () => polls.every(({ end }) => end));
  return { server, jobs, polls, late, code };
}

/** The same with aggregateStream. The first take answers 429. */
async function gatheringScenario(side: Side) {
  const server = await openServer(PACE[side]);
  server.fault = (request) => (isTake(request) && server.requests('job-take').length === 1 ? 429 : undefined);
  const job = server.submit({ chunks: ['a', { b: 2 }] });
  const env = { ...server.env, RUNPOD_WEBHOOK_GET_JOB: `${server.env.RUNPOD_WEBHOOK_GET_JOB}&pod=$RUNPOD_POD_ID` };
  const worker = await startWorkerProcess({ side, env, options: { generator: true, aggregateStream: true } });
  await server.waitForEnd(job);
  worker.signal('SIGTERM');
  return { server, job, code: await worker.exited };
}

/** Two workers with refreshWorker; the one with the job is killed. */
async function refreshScenario(side: Side) {
  const server = await openServer({ workerTimeout: 2500 });
  const job = server.submit({ do: 'wait', gate: 'killed' });
  const workers: Record<string, WorkerProcess> = {};
  for (const id of ['pod1', 'pod2']) {
    const env = { ...server.env, RUNPOD_POD_ID: id, RUNPOD_PING_INTERVAL: '500' };
    workers[id] = await startWorkerProcess({ side, env, options: { refreshWorker: true } });
  }
  await server.waitForGate('killed');
  const first = server.queue.find(job)!.workerId!;
  const second = first === 'pod1' ? 'pod2' : 'pod1';
  workers[first]!.kill();
  await workers[first]!.exited;
  server.open('killed');
  await server.waitForEnd(job);
  const code = await workers[second]!.exited;
  return { server, job, first, second, code };
}

/** A worker that fails a fitness check. */
async function unfitScenario(side: Side) {
  const server = await openServer();
  const worker = await startWorkerProcess({ side, env: server.env, options: { unfit: 'no weights' } });
  return { server, code: await worker.exited };
}

/** A worker that gets SIGTERM twice. */
async function twoSignalsScenario(side: Side) {
  const server = await openServer();
  const job = server.submit({ do: 'wait', gate: 'two signals' });
  const worker = await startWorkerProcess({ side, env: server.env });
  await server.waitForGate('two signals');
  worker.signal('SIGTERM');
  await worker.printed(STOPPING[side]);
  worker.signal('SIGTERM');
  return { server, job, code: await worker.exited };
}

const CHUNKS = { input: { chunks: [1, { b: 2 }] } };

/** One job without a queue, and a folder without a job. */
async function localScenario(side: Side) {
  const server = await openServer();
  async function run(options: Omit<Parameters<typeof startWorkerProcess>[0], 'side'>) {
    const worker = await startWorkerProcess({ side, ...options });
    return { code: await worker.exited, output: worker.output() };
  }
  const [flag, file, missing, generator] = await Promise.all([
    run({ env: server.env, argv: ['--test_input', '{"input":{"do":"return","value":{"echo":"héllo"}}}'] }),
    run({ files: { 'test_input.json': '{"input":{"do":"throw","message":"boom"}}' } }),
    run({}),
    run({ argv: ['--test_input', JSON.stringify(CHUNKS)], options: { generator: true } }),
  ]);
  return { server, flag, file, missing, generator };
}

/** A worker that is an HTTP server. */
async function openApi(side: Side, options: object, env: Record<string, string>) {
  const port = await freePort();
  const argv = ['--rp_serve_api', '--rp_api_host', '127.0.0.1', '--rp_api_port', String(port)];
  const worker = await startWorkerProcess({ side, env, options, argv });
  await worker.printed({ python: 'Uvicorn running', ours: '"serving"' }[side]);
  return async (path: string, body?: unknown, method = 'POST') => {
    const answer = await fetch(`http://127.0.0.1:${port}/${path}`, {
      method,
      headers: { 'content-type': 'application/json' },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    return [answer.status, await answer.json()] as [number, Record<string, string>];
  };
}

async function apiScenario(side: Side) {
  const server = await openServer();
  const { GATE } = server.env;
  const call = await openApi(side, {}, { GATE });
  const echo = { input: { do: 'return', value: { echo: 'héllo' } }, webhook: `${server.base}/hook` };

  const ran = await call('run', echo);
  const id = ran[1].id!;
  const status = await call(`status/${id}`);
  const again = await call(`status/${id}`);
  const got = await call(`status/${id}`, undefined, 'GET');
  const hook = await server.waitFor('the webhook', () => server.hooks[0]);
  const synchronous = await call('runsync', { input: { do: 'return', value: 5 } });
  const thrown = await call('runsync', { input: { do: 'throw', message: 'boom' } });
  const unknown = [await call('status/unknown'), await call('stream/unknown')];
  const refused = [];
  for (const body of [{ input: [1] }, { input: 'text' }, { input: null }, {}])
    refused.push(await call('run', body), await call('runsync', body));
  const waiting = (await call('run', { input: { do: 'wait', gate: 'api' } }))[1].id;
  const hasStarted = await Promise.race([server.waitForGate('api'), delay(2000)]);
  server.open('api');
  const waited = await call(`status/${waiting}`);
  const notStreamed = await call(`stream/${(await call('run', echo))[1].id}`);
  return {
    ...{ server, ran, id, status, again, got, hook, synchronous, thrown, unknown, refused },
    ...{ hasStarted, waiting, waited, notStreamed },
  };
}

async function generatorApiScenario(side: Side) {
  const call = await openApi(side, { generator: true }, {});
  const { id } = (await call('run', CHUNKS))[1];
  const stream = await call(`stream/${id}`);
  const synchronous = await call('runsync', CHUNKS);
  return { id, stream, synchronous };
}

const SCENARIOS = {
  plain: plainScenario,
  slots: slotsScenario,
  generator: generatorScenario,
  gathering: gatheringScenario,
  refresh: refreshScenario,
  unfit: unfitScenario,
  twoSignals: twoSignalsScenario,
  local: localScenario,
  api: apiScenario,
  generatorApi: generatorApiScenario,
};
type Scenarios = { [name in keyof typeof SCENARIOS]: () => ReturnType<(typeof SCENARIOS)[name]> };

/** Functions that run each scenario once, at the first call. */
function runScenarios(side: Side): Scenarios {
  const results = new Map<string, Promise<unknown>>();
  const scenarios = Object.entries(SCENARIOS).map(([name, run]) => {
    const once = () => {
      if (!results.has(name)) results.set(name, run(side));
      return results.get(name)!;
    };
    return [name, once] as const;
  });
  return Object.fromEntries(scenarios) as Scenarios;
}

/** By the rows of README.md's table: what holds for each worker. */
const DIFFERENCES: Record<string, Record<Side, (scenarios: Scenarios) => Promise<void>>> = {
  'job-take fails (5xx, 401, connection reset)': {
    python: async (scenarios) => expect(duration((await scenarios.plain()).failing)).toBeLessThan(1000),
    ours: async (scenarios) => expect(duration((await scenarios.plain()).failing)).toBeGreaterThan(1100),
  },
  'job-take answers at once that there is no job': {
    python: async (scenarios) => expect(duration((await scenarios.plain()).empty)).toBeLessThan(500),
    ours: async (scenarios) => expect(duration((await scenarios.plain()).empty)).toBeGreaterThan(500),
  },
  'a slot becomes free after all were taken': {
    async python(scenarios) {
      const { server, full } = await scenarios.slots();
      expect(duration(full.flatMap((id) => server.requests('job-done', id)))).toBeGreaterThan(1500);
    },
    async ours(scenarios) {
      const { server, full } = await scenarios.slots();
      expect(duration(full.flatMap((id) => server.requests('job-done', id)))).toBeLessThan(1000);
    },
  },
  'job-done answers 429': {
    async python(scenarios) {
      const { server, limited, afterLimited } = await scenarios.plain();
      expect(server.requests('job-done', limited)).toHaveLength(1);
      expect(jobIds(afterLimited)).not.toContain(limited);
      expect(server.status(limited)).toBe('IN_PROGRESS');
    },
    async ours(scenarios) {
      const { server, limited, afterLimited } = await scenarios.plain();
      const texts = server.requests('job-done', limited).map(({ text }) => text);
      expect(texts.length).toBeGreaterThan(1);
      expect(new Set(texts).size).toBe(1);
      expect(jobIds(afterLimited)).toContain(limited);
      expect(server.status(limited)).toBe('COMPLETED');
    },
  },
  'the connection breaks at job-done': {
    async python(scenarios) {
      const { server, reset } = await scenarios.plain();
      expect(server.requests('job-done', reset)).toHaveLength(1);
      expect(server.status(reset)).toBe('IN_PROGRESS');
    },
    async ours(scenarios) {
      const { server, reset } = await scenarios.plain();
      const [first, second, ...more] = server.requests('job-done', reset).map(({ text }) => text);
      expect(second).toBe(first);
      expect(more).toEqual([]);
      expect(server.status(reset)).toBe('COMPLETED');
    },
  },
  'an output that JSON cannot express': {
    async python(scenarios) {
      const { server, unserialisable } = await scenarios.plain();
      expect(server.requests('job-done', unserialisable)).toEqual([]);
      expect(server.status(unserialisable)).toBe('IN_PROGRESS');
    },
    async ours(scenarios) {
      const { server, unserialisable } = await scenarios.plain();
      const [body, ...more] = server.posted(unserialisable);
      expect(JSON.parse(body.error)).toMatchObject({ error_message: expect.stringContaining('BigInt') });
      expect(more).toEqual([]);
      expect(server.status(unserialisable)).toBe('FAILED');
    },
  },
  'NaN and Infinity in an output': {
    async python(scenarios) {
      const { server, notANumber } = await scenarios.plain();
      expect(server.requests('job-done', notANumber).map(({ text }) => text)).toEqual(['{"output": {"value": NaN}}']);
    },
    async ours(scenarios) {
      const { server, notANumber } = await scenarios.plain();
      expect(server.posted(notANumber)).toEqual([{ output: { value: null } }]);
    },
  },
  "an output or chunk above RunPod's maximum size": {
    async python(scenarios) {
      const [{ server, tooLarge }, stream] = [await scenarios.plain(), await scenarios.generator()];
      expect(server.posted(tooLarge)[0].output).toHaveLength(LARGE.output);
      const chunk = stream.server.requests('job-stream', stream.jobs.tooLarge)[1]!;
      expect(JSON.parse(chunk.text).output).toHaveLength(LARGE.chunk);
    },
    async ours(scenarios) {
      const [{ server, tooLarge }, stream] = [await scenarios.plain(), await scenarios.generator()];
      expect(server.posted(tooLarge)).toEqual([{ error: expect.stringContaining('the output has 10.0 MB') }]);
      expect(stream.server.requests('job-stream', stream.jobs.tooLarge)).toHaveLength(1);
      expect(stream.server.posted(stream.jobs.tooLarge)).toEqual([
        { error: expect.stringContaining('a chunk has 1.0 MB') },
      ]);
    },
  },
  'an `error` that is not text': {
    async python(scenarios) {
      const [{ server, errorObject }, stream] = [await scenarios.plain(), await scenarios.generator()];
      expect(server.posted(errorObject)).toEqual([{ error: { code: 1 } }]);
      expect(stream.server.posted(stream.jobs.errorObject)).toEqual([{ error: "{'code': 1}" }]);
    },
    async ours(scenarios) {
      const [{ server, errorObject }, stream] = [await scenarios.plain(), await scenarios.generator()];
      expect(server.posted(errorObject)).toEqual([{ error: '{"code":1}' }]);
      expect(stream.server.posted(stream.jobs.errorObject)).toEqual([{ error: '{"code":1}' }]);
    },
  },
  'the description of a thrown error': {
    async python(scenarios) {
      const { server, thrown } = await scenarios.plain();
      const description = JSON.parse(server.posted(thrown)[0].error);
      expect(description).toMatchObject({
        error_type: "<class 'ValueError'>",
        hostname: 'pod1-host',
        runpod_version: '1.12.0',
      });
      expect(Object.keys(description)).toHaveLength(6);
    },
    async ours(scenarios) {
      const { server, thrown } = await scenarios.plain();
      const description = JSON.parse(server.posted(thrown)[0].error);
      expect(description.error_type).toBe('RangeError');
      expect(Object.keys(description)).toHaveLength(4);
    },
  },
  'a generator throws': {
    async python(scenarios) {
      const { server, jobs } = await scenarios.generator();
      expect(server.posted(jobs.throws)).toEqual([
        { error: expect.stringMatching(/^handler: boom \ntraceback: Traceback/) },
      ]);
    },
    async ours(scenarios) {
      const { server, jobs } = await scenarios.generator();
      const [{ error }] = server.posted(jobs.throws) as [{ error: string }];
      expect(JSON.parse(error)).toMatchObject({ error_type: 'RangeError', error_message: 'boom' });
    },
  },
  'progress faster than it can be sent': {
    async python(scenarios) {
      const { server, reportedMuch } = await scenarios.plain();
      const values = server.posted(reportedMuch).flatMap(({ status, output }) => (status ? [output] : []));
      expect(values.sort((a, b) => a - b)).toEqual(Array.from({ length: 20 }, (_, n) => n + 1));
    },
    async ours(scenarios) {
      const { server, reportedMuch } = await scenarios.plain();
      const posted = server.posted(reportedMuch);
      expect(posted.pop()).toEqual({ output: 'reported' });
      const values = posted.map(({ output }) => output);
      expect(values).toEqual([...values].sort((a, b) => a - b));
      expect(values.length).toBeLessThan(20);
      const [outcome, progress] = server.requests('job-done', reportedMuch).reverse();
      expect(outcome!.at).toBeGreaterThan(progress!.ended!);
    },
  },
  'RunPod stops a job': {
    async python(scenarios) {
      const { afterIgnored, ignoring, disconnected } = await scenarios.plain();
      expect(disconnected).toBe(1);
      expect(jobIds(afterIgnored)).not.toContain(ignoring);
    },
    async ours(scenarios) {
      const { afterIgnored, ignoring, disconnected } = await scenarios.plain();
      expect(disconnected).toBe(0);
      expect(jobIds(afterIgnored)).toContain(ignoring);
    },
  },
  'RunPod gives a job again while it is active': {
    async python(scenarios) {
      const { server, a, runs } = await scenarios.plain();
      expect(runs).toBe(2);
      expect(server.posted(a)).toEqual([{ output: 'waited' }, { output: 'waited' }]);
    },
    async ours(scenarios) {
      const { server, a, runs } = await scenarios.plain();
      expect(runs).toBe(1);
      expect(server.posted(a)).toEqual([{ output: 'waited' }]);
    },
  },
  'the concurrency changes': {
    python: async (scenarios) => expect((await scenarios.slots()).whileRunning).toBe('IN_QUEUE'),
    ours: async (scenarios) => expect((await scenarios.slots()).whileRunning).toBe('COMPLETED'),
  },
  'RUNPOD_PING_INTERVAL below 1000': {
    python: async (scenarios) => expect((await scenarios.refresh()).server.requests('ping')).toEqual([]),
    async ours(scenarios) {
      const { server, second } = await scenarios.refresh();
      const pings = server.requests('ping').filter(({ worker }) => worker === second);
      expect(duration(pings) / (pings.length - 1)).toBeLessThan(900); // of an interval of 500
    },
  },
  '`runpod_version`': {
    async python(scenarios) {
      const [plain, unfit] = [await scenarios.plain(), await scenarios.unfit()];
      for (const { query } of [...plain.server.requests('ping'), ...unfit.server.requests('ping')])
        expect(query.get('runpod_version')).toBe('1.12.0');
    },
    async ours(scenarios) {
      const [plain, unfit] = [await scenarios.plain(), await scenarios.unfit()];
      for (const { query } of [...plain.server.requests('ping'), ...unfit.server.requests('ping')])
        expect(query.has('runpod_version')).toBe(false);
    },
  },
  'X-Request-ID of a job-take, and of a retried post': {
    async python(scenarios) {
      const { server, full } = await scenarios.slots();
      expect(server.requests('job-take').map(({ headers }) => headers['x-request-id'])).toEqual(
        expect.arrayContaining(full.slice(0, 2)),
      );
    },
    async ours(scenarios) {
      const { server } = await scenarios.slots();
      expect(new Set(server.requests('job-take').map(({ headers }) => headers['x-request-id']))).toEqual(
        new Set([undefined]),
      );
    },
  },
  '`$RUNPOD_POD_ID` in RUNPOD_WEBHOOK_GET_JOB': {
    async python(scenarios) {
      const [take] = (await scenarios.gathering()).server.requests('job-take');
      expect(take!.path).toBe('job-take/pod1?gpu=NVIDIA+L4&pod=$RUNPOD_POD_ID&job_in_progress=0');
    },
    async ours(scenarios) {
      const [take] = (await scenarios.gathering()).server.requests('job-take');
      expect(take!.path).toBe('job-take/pod1?gpu=NVIDIA+L4&pod=pod1&job_in_progress=0');
    },
  },
  'SIGTERM during polls': {
    python: async (scenarios) =>
      expect((await scenarios.generator()).polls.map(({ end }) => end)).toEqual(['answered', 'answered']),
    ours: async (scenarios) =>
      expect((await scenarios.generator()).polls.map(({ end }) => end)).toEqual(['disconnected', 'disconnected']),
  },
  'a job is given to a held poll after SIGTERM': {
    async python(scenarios) {
      const { server, late, code } = await scenarios.generator();
      expect([server.status(late), server.posted(late), code]).toEqual(['IN_PROGRESS', [], 0]);
    },
    async ours(scenarios) {
      const { server, late, code } = await scenarios.generator();
      expect([server.status(late), server.posted(late), code]).toEqual(['IN_QUEUE', [], 0]);
    },
  },
  'the output of `--test_input` and test_input.json': {
    python: async (scenarios) =>
      expect((await scenarios.local()).flag.output).toContain("Job result: {'output': {'echo': 'héllo'}}"),
    async ours(scenarios) {
      const { flag } = await scenarios.local();
      expect(flag.output.trim().split('\n').at(-1)).toBe('{"output":{"echo":"héllo"}}');
    },
  },
  'a generator with `--test_input`': {
    async python(scenarios) {
      const { generator } = await scenarios.local();
      expect(generator.output).toContain("Job result: {'output': <async_generator object");
      expect(generator.code).toBe(0);
    },
    async ours(scenarios) {
      const { generator } = await scenarios.local();
      expect(JSON.parse(generator.output.trim().split('\n').at(-1)!)).toEqual({ output: CHUNKS.input.chunks });
      expect(generator.code).toBe(0);
    },
  },
  '`--rp_serve_api`: start of a job from /run': {
    python: async (scenarios) => expect((await scenarios.api()).hasStarted).toBeUndefined(),
    ours: async (scenarios) => expect((await scenarios.api()).hasStarted).toBe(true),
  },
  '`--rp_serve_api`: /status of a job that has ended': {
    async python(scenarios) {
      const { id, again } = await scenarios.api();
      expect(again).toEqual([200, { id, status: 'FAILED', error: 'Job ID not found' }]);
    },
    async ours(scenarios) {
      const { status, again } = await scenarios.api();
      expect(again).toEqual(status);
    },
  },
  '`--rp_serve_api`: GET /status, /stream': {
    async python(scenarios) {
      expect((await scenarios.api()).got[0]).toBe(405);
    },
    async ours(scenarios) {
      const { status, got } = await scenarios.api();
      expect(got).toEqual(status);
    },
  },
  '`--rp_serve_api`: body of a webhook': {
    async python(scenarios) {
      expect((await scenarios.api()).hook).toEqual({ output: { echo: 'héllo' } });
    },
    async ours(scenarios) {
      const { status, hook } = await scenarios.api();
      expect(hook).toEqual(status[1]);
    },
  },
  '`--rp_serve_api`: /stream of a job without generator': {
    async python(scenarios) {
      const { notStreamed } = await scenarios.api();
      expect(notStreamed[1]).toMatchObject({ status: 'FAILED', error: expect.stringContaining('must be a generator') });
    },
    async ours(scenarios) {
      const { notStreamed } = await scenarios.api();
      expect(notStreamed[1]).toMatchObject({ status: 'COMPLETED', stream: [] });
    },
  },
  'a second SIGTERM': {
    async python(scenarios) {
      const { server, last, code } = await scenarios.plain(); // it got SIGTERM twice as well
      expect([server.status(last), code]).toEqual(['COMPLETED', 0]);
    },
    async ours(scenarios) {
      const { server, job, code } = await scenarios.twoSignals();
      expect([server.status(job), server.posted(job), code]).toEqual(['IN_PROGRESS', [], 1]);
    },
  },
};

describe.each<Side>(['ours', 'python'])('%s', (side) => {
  const isSkipped = side === 'python' && skipped !== '';
  const scenarios = runScenarios(side);

  describe.skipIf(isSkipped)(`as a worker${side === 'python' ? skipped : ''}`, { timeout: 60_000 }, () => {
    beforeAll(() => {
      const { twoSignals, local, api, generatorApi, ...workers } = scenarios;
      const start = (run: () => Promise<unknown>) => run().catch(() => {}); // its tests will fail
      for (const run of Object.values(workers)) start(run);
      start(generatorApi)
        .then(() => start(api))
        .then(() => start(local));
    });

    test('with many free slots the worker takes a batch, with one a single job', async () => {
      const { server, single } = await scenarios.slots();
      expect(server.requests('job-take')[0]!.path).toBe(
        `job-take-batch/pod1?gpu=NVIDIA+L4&batch_size=${SLOTS}&job_in_progress=0`,
      );
      expect(single.path).toBe('job-take/pod1?gpu=NVIDIA+L4&job_in_progress=0');
    });

    test('a take says how many slots are free, and whether a job is active', async () => {
      const { busyTake } = await scenarios.plain();
      expect(busyTake.path).toBe(`job-take-batch/pod1?gpu=NVIDIA+L4&batch_size=${SLOTS - 2}&job_in_progress=1`);
    });

    test('polls carry the key alone', async () => {
      const { server } = await scenarios.plain();
      const stops = server.requests('job-stop');
      expect(new Set(stops.map(({ path }) => path))).toEqual(new Set(['job-stop/pod1?gpu=NVIDIA+L4']));
      for (const { headers } of [...server.requests('job-take'), ...stops])
        expect(headers).toMatchObject({ authorization: KEY, 'content-type': 'application/json' });
    });

    test.each(RETURNED.map((row, index) => [...row, index] as const))(
      'the body of job-done for the return value %j',
      async (_, body, index) => {
        const { server, returned } = await scenarios.plain();
        expect(server.posted(returned[index]!)).toEqual([body]);
        const { status, output, error } = server.queue.find(returned[index]!)!;
        expect({ status, output, error }).toEqual({
          status: 'error' in body ? 'FAILED' : 'COMPLETED',
          ...{ output: 'error' in body ? undefined : ((body as { output?: unknown }).output ?? null) },
          error: (body as { error?: string }).error,
        });
      },
    );

    test('an outcome is posted with RunPod’s path and headers', async () => {
      const { server, thrown, next } = await scenarios.plain();
      for (const id of [thrown, next]) {
        const [done] = server.requests('job-done', id);
        expect(done!.path).toBe(`job-done/pod1/${id}?gpu=NVIDIA+L4&isStream=false`);
        expect(done!.headers).toMatchObject({
          authorization: KEY,
          charset: 'utf-8',
          'content-type': 'application/x-www-form-urlencoded',
          'x-request-id': id,
        });
      }
    });

    test('a handler that throws fails its job, with the error as JSON in text', async () => {
      const { server, thrown } = await scenarios.plain();
      const [{ error, ...more }, ...others] = server.posted(thrown) as [{ error: string }];
      expect([more, others]).toEqual([{}, []]);
      const description = JSON.parse(error);
      expect(description).toMatchObject({ error_message: 'boom', worker_id: 'pod1' });
      expect(description.error_traceback).toContain(side === 'python' ? 'worker.py' : 'worker.ts');
      const keys = ['error_type', 'error_message', 'error_traceback', 'worker_id'];
      expect(Object.keys(description).filter((key) => keys.includes(key))).toEqual(keys);
      expect(server.queue.find(thrown)).toMatchObject({ status: 'FAILED', error });
    });

    test('a job without input fails', async () => {
      const { server } = await scenarios.plain();
      const [{ error }] = server.posted('empty') as [{ error: string }];
      expect(JSON.parse(error)).toMatchObject({ error_message: expect.stringContaining('input'), worker_id: 'pod1' });
    });

    test('progress is posted as job-done and is the output while the job runs', async () => {
      const { server, reported, progressOutput } = await scenarios.plain();
      const [progress] = server.requests('job-done', reported);
      expect(progress!.path).toBe(`job-done/pod1/${reported}?gpu=NVIDIA+L4&isStream=false`);
      expect(progress!.headers).toMatchObject({
        authorization: KEY,
        charset: 'utf-8',
        'content-type': 'application/x-www-form-urlencoded',
        'x-request-id': reported,
      });
      expect(server.posted(reported)).toEqual([{ status: 'IN_PROGRESS', output: { step: 1 } }, { output: 'reported' }]);
      expect(progressOutput).toEqual({ step: 1 });
    });

    test('an outcome is retried after 500, byte for byte', async () => {
      const { server, failedOnce } = await scenarios.plain();
      const texts = server.requests('job-done', failedOnce).map(({ text }) => text);
      expect(texts).toHaveLength(2);
      expect(texts[1]).toBe(texts[0]);
      expect(server.queue.find(failedOnce)).toMatchObject({ status: 'COMPLETED', output: 'failed once' });
    });

    test('pings name the active jobs, and none when idle', async () => {
      const { server, a, b, both } = await scenarios.plain();
      const path = ({ path }: RecordedRequest) => path.replace(/.runpod_version=.*/, '');
      expect([`${a}%2C${b}`, `${b}%2C${a}`].map((ids) => `ping/pod1?job_id=${ids}`)).toContain(path(both));
      expect(server.requests('ping').map(path)).toContain('ping/pod1');
      for (const { headers } of server.requests('ping')) expect(headers).toMatchObject({ authorization: KEY });
    });

    test('pings keep their interval', async () => {
      const { server } = await scenarios.plain();
      const pings = server.requests('ping');
      const mean = duration(pings) / (pings.length - 1);
      expect(mean).toBeGreaterThan(0.9 * PACE[side].pingInterval);
      expect(mean).toBeLessThan(2 * PACE[side].pingInterval);
    });

    test('pings go on and name the job while it blocks its thread', async () => {
      const { server, blocking, whileBlocked } = await scenarios.plain();
      for (const ping of whileBlocked) expect(jobIds(ping)).toEqual([blocking]);
      expect(server.posted(blocking)).toEqual([{ output: 'blocked' }]);
    });

    test('a stopped job has no outcome, its slot is free, and the other job goes on', async () => {
      const { server, a, b, ignoring, afterStop, next, isHeld } = await scenarios.plain();
      expect(server.posted(b)).toEqual([]);
      expect(server.posted(ignoring)).toEqual([]);
      expect(server.status(b)).toBe('CANCELLED');
      expect(afterStop.query.get('job_in_progress')).toBe('1');
      expect(server.queue.find(next)).toMatchObject({ status: 'COMPLETED', output: 'next' });
      expect([isHeld, server.status(a)]).toEqual([true, 'COMPLETED']);
    });

    test('the concurrency may change', async () => {
      const { server, smaller, single } = await scenarios.slots();
      expect(smaller.path).toMatch(/^job-take-batch\/pod1\?gpu=NVIDIA\+L4&batch_size=2&job_in_progress=[01]$/);
      expect(new Set(server.requests('job-take').flatMap(({ at, path }) => (at < single.at ? [] : [path])))).toEqual(
        new Set([single.path]),
      );
    });

    test('after SIGTERM the running job ends and is posted; nothing more is taken', async () => {
      const { server, last, code } = await scenarios.plain();
      expect(server.posted(last)).toEqual([{ output: 'waited' }]);
      expect(server.status(last)).toBe('COMPLETED');
      expect(code).toBe(0);
      expect(server.requests('job-take').filter(({ at }) => at > server.requests('job-done', last)[0]!.at)).toEqual([]);
    });

    test('a generator’s values are sent as chunks, each after the previous one has been accepted', async () => {
      const { server, jobs } = await scenarios.generator();
      const chunks = server.requests('job-stream', jobs.chunks);
      expect(chunks.map(({ text }) => JSON.parse(text))).toEqual(
        ['a', ...GENERATED.chunks.chunks].map((output) => ({ output })),
      );
      chunks.forEach(({ path, headers }, nth) => {
        expect(path).toBe(`job-stream/pod1/${jobs.chunks}?gpu=NVIDIA+L4&isStream=false`);
        expect(headers).toMatchObject({
          authorization: KEY,
          charset: 'utf-8',
          'content-type': 'application/x-www-form-urlencoded',
          // Python's worker names the job posted last in a repeat
          ...(side === 'ours' || nth !== 1 ? { 'x-request-id': jobs.chunks } : {}),
        });
      });
      const [done, ...more] = server.requests('job-done', jobs.chunks);
      expect(done!.path).toBe(`job-done/pod1/${jobs.chunks}?gpu=NVIDIA+L4&isStream=true`);
      expect(JSON.parse(done!.text)).toEqual({ output: [] });
      expect(more).toEqual([]);
      expect(done!.at).toBeGreaterThan(chunks.at(-1)!.at);
      expect(server.status(jobs.chunks)).toBe('COMPLETED');
    });

    test('a generator without values sends no chunks', async () => {
      const { server, jobs } = await scenarios.generator();
      expect(server.requests('job-stream', jobs.none)).toEqual([]);
      expect(server.posted(jobs.none)).toEqual([{ output: [] }]);
      expect(server.requests('job-done', jobs.none)[0]!.query.get('isStream')).toBe('true');
    });

    test('a chunk with an error ends the stream and fails the job', async () => {
      const { server, jobs } = await scenarios.generator();
      expect(server.requests('job-stream', jobs.error).map(({ text }) => JSON.parse(text))).toEqual([{ output: 1 }]);
      expect(server.posted(jobs.error)).toEqual([{ error: 'bad' }]);
      expect(server.requests('job-done', jobs.error)[0]!.query.get('isStream')).toBe('true');
      expect(server.status(jobs.error)).toBe('FAILED');
    });

    test('a generator that throws fails the job; earlier chunks stay sent', async () => {
      const { server, jobs } = await scenarios.generator();
      expect(server.requests('job-stream', jobs.throws).map(({ text }) => JSON.parse(text))).toEqual([{ output: 1 }]);
      expect(server.posted(jobs.throws)).toEqual([{ error: expect.stringContaining('boom') }]);
      expect(server.requests('job-done', jobs.throws)[0]!.query.get('isStream')).toBe('true');
      expect(server.status(jobs.throws)).toBe('FAILED');
    });

    test('with aggregateStream chunks are also the output', async () => {
      const { server, job, code } = await scenarios.gathering();
      expect(server.requests('job-stream', job)).toHaveLength(2);
      expect(server.posted(job)).toEqual([{ output: ['a', { b: 2 }] }]);
      expect(server.requests('job-done', job)[0]!.query.get('isStream')).toBe('true');
      expect(code).toBe(0);
    });

    test('after 429 the next take is five seconds later', async () => {
      const { server } = await scenarios.gathering();
      const [first, second] = server.requests('job-take');
      expect(second!.at - first!.at).toBeGreaterThan(4900);
      expect(second!.at - first!.at).toBeLessThan(9000);
    });

    test('with refreshWorker a job asks for a fresh worker, and the worker ends', async () => {
      const { server, job, second, code } = await scenarios.refresh();
      expect(server.posted(job)).toEqual([{ output: 'waited', stopPod: true }]);
      expect(server.requests('job-done', job)[0]!.worker).toBe(second);
      expect(code).toBe(0);
    });

    test('a killed worker’s job is run by another', async () => {
      const { server, job, first, second } = await scenarios.refresh();
      expect(server.gate('killed').arrived).toBe(2);
      expect(first).not.toBe(second);
      expect(server.queue.find(job)).toMatchObject({ status: 'COMPLETED', output: 'waited', workerId: second });
    });

    test('a worker that fails a check reports it, takes nothing and exits with 1', async () => {
      const { server, code } = await scenarios.unfit();
      const [report, ...more] = server.recorded;
      expect(report!.path.replace(/&runpod_version=.*/, '')).toBe(
        'ping/pod1?status=unhealthy&check=weights&reason=RuntimeError%3A+no+weights',
      );
      expect(report!.headers.authorization).toBe(KEY);
      expect(more).toEqual([]);
      expect(code).toBe(1);
    });

    test('--test_input runs one job even with a queue, and exits with 0', async () => {
      const { server, flag } = await scenarios.local();
      expect(flag.output).toContain('héllo');
      expect(flag.code).toBe(0);
      expect(server.recorded).toEqual([]);
    });

    test('without a queue the job is test_input.json; if it fails the worker exits with 1', async () => {
      const { file } = await scenarios.local();
      expect(file.output).toContain('boom');
      expect(file.code).toBe(1);
    });

    test('without a queue or job the worker explains that and exits with 1', async () => {
      const { missing } = await scenarios.local();
      expect(missing.output).toContain('test_input.json');
      expect(missing.code).toBe(1);
    });

    test('--rp_serve_api: /run starts a job, and /status has its outcome', async () => {
      const { ran, id, status } = await scenarios.api();
      expect(ran).toEqual([200, { id: expect.stringMatching(/./), status: 'IN_PROGRESS' }]);
      expect(status).toEqual([200, { id, status: 'COMPLETED', output: { echo: 'héllo' } }]);
    });

    test('--rp_serve_api: /status waits for the outcome', async () => {
      const { waiting, waited } = await scenarios.api();
      expect(waited).toEqual([200, { id: waiting, status: 'COMPLETED', output: 'waited' }]);
    });

    test('--rp_serve_api: /runsync answers with the outcome', async () => {
      const { synchronous, thrown } = await scenarios.api();
      expect(synchronous).toEqual([200, { id: expect.any(String), status: 'COMPLETED', output: 5 }]);
      expect(thrown).toEqual([200, { id: expect.any(String), status: 'FAILED', error: expect.any(String) }]);
      expect(JSON.parse(thrown[1].error!)).toMatchObject({ error_message: 'boom' });
    });

    test('--rp_serve_api: /stream and /runsync have a generator’s chunks', async () => {
      const { id, stream, synchronous } = await scenarios.generatorApi();
      const { chunks } = CHUNKS.input;
      expect(stream).toEqual([200, { id, status: 'COMPLETED', stream: chunks.map((output) => ({ output })) }]);
      expect(synchronous).toEqual([200, { id: expect.any(String), status: 'COMPLETED', output: chunks }]);
    });

    test('--rp_serve_api: an unknown job has failed', async () => {
      const { unknown } = await scenarios.api();
      const answer = [200, { id: 'unknown', status: 'FAILED', error: 'Job ID not found' }];
      expect(unknown).toEqual([answer, answer]);
    });

    test('--rp_serve_api: the input must be an object', async () => {
      const { refused } = await scenarios.api();
      for (const [status, body] of refused) {
        expect(status).toBe(422);
        expect(body).toHaveProperty('detail');
      }
    });

    test.each(Object.entries(DIFFERENCES))('differs on purpose: %s', async (_, check) => {
      await check[side](scenarios);
    });
  });
});

test('README.md’s table has exactly the differences that are tested', async () => {
  const readme = await readFile(new URL('README.md', import.meta.url), 'utf8');
  const [, table] = readme.split('| Case | Python | This worker | Reason |\n|---|---|---|---|\n');
  const rows = table!
    .split('\n\n')[0]!
    .split('\n')
    .map((row) => row.split(' | '));
  expect(rows.map(([first]) => first!.replace('| ', ''))).toEqual(Object.keys(DIFFERENCES));
  expect(rows.map((cells) => cells.length)).toEqual(rows.map(() => 4));
});
