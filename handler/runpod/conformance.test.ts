/**
 * One suite for this folder's worker and RunPod's own for Python: real processes with the same handlers (testdata) before the same far
 * end, submitted to the same jobs. Each worker lives its life once; the tests look at what it has sent and how its jobs have ended.
 */
import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { freePort } from '../../infra/run/free-port.ts';
import {
  type Asked,
  endWorkers,
  type Fault,
  farEnd,
  KEY,
  type Side,
  skipped,
  startWorker,
  type WorkerProcess,
} from '../../test/support/worker-conformance.ts';
import { type Difference, differences } from '../../test/support/worker-differences.ts';

const farEnds: { close: () => unknown }[] = [];
afterAll(async () => {
  await endWorkers();
  for (const far of farEnds) far.close();
});

async function openFarEnd(options?: Parameters<typeof farEnd>[0]) {
  const far = await farEnd(options);
  farEnds.push(far);
  return far;
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

const isTake = ({ operation }: Asked) => operation.startsWith('job-take');
const names = ({ query }: Asked) => query.get('job_id')?.split(',') ?? [];
const apart = (asked: Asked[]) => asked.at(-1)!.at - asked[0]!.at;

/** The life of a worker with many slots, from its start to SIGTERM with a job in hand. */
async function plainLife(side: Side) {
  const far = await openFarEnd(PACE[side]);
  const done = new Map<string, (nth: number) => Fault | undefined | Promise<undefined>>(); // faults of job-done by job
  let take: ((asked: Asked) => Fault | undefined) | undefined;
  far.fault = (asked) => {
    if (isTake(asked)) return take?.(asked);
    return asked.operation === 'job-done' ? done.get(asked.id!)?.(far.of('job-done', asked.id).length) : undefined;
  };
  /** The next `count` takes get this answer. @returns them, when they have been answered */
  async function nextTakes(count: number, answer: (asked: Asked, nth: number) => Fault): Promise<Asked[]> {
    const faulty: Asked[] = [];
    take = (asked) => {
      if (faulty.length === count) return undefined;
      faulty.push(asked);
      return answer(asked, faulty.length - 1);
    };
    await far.until(`${count} takes`, () => faulty.length === count && faulty.every(({ end }) => end));
    take = undefined;
    return faulty;
  }

  // Many jobs, all there from the start.
  const returned = RETURNED.map(([value]) => far.submit({ do: 'return', value }));
  const errorObject = far.submit({ do: 'return', value: { error: { code: 1 } } });
  const thrown = far.submit({ do: 'throw', message: 'boom' });
  const notANumber = far.submit({ do: 'return NaN' });
  const unserialisable = far.submit({ do: 'return what JSON has no word for' });
  const tooLarge = far.submit({ do: 'return much', bytes: LARGE.output });
  const reported = far.submit({ do: 'report', values: [{ step: 1 }], gate: 'seen' });
  const reportedMuch = far.submit({ do: 'report', values: Array.from({ length: 20 }, (_, n) => n + 1) });
  const failedOnce = far.submit({ do: 'return', value: 'failed once' });
  const limited = far.submit({ do: 'return', value: 'limited' });
  const reset = far.submit({ do: 'return', value: 'reset' });
  let isLimited = true;
  done.set(reportedMuch, (nth) => (nth === 1 ? delay(300) : undefined));
  done.set(failedOnce, (nth) => (nth === 1 ? 500 : undefined));
  done.set(limited, () => (isLimited ? 429 : undefined));
  done.set(reset, (nth) => (nth === 1 ? 'reset' : undefined));

  const worker = await startWorker({ side, env: far.env, options: { concurrency: SLOTS } });
  await far.until('progress', () => far.posted(reported).length > 0 && far.queue.find(reported)?.output);
  const shown = far.queue.find(reported)!.output;
  far.open('seen');
  await far.until('limited', () => far.of('job-done', limited).length > 0);
  const afterLimited = (await far.pings(2))[1]!;
  isLimited = false;
  await far.ended(...returned, thrown, reported, reportedMuch, failedOnce);
  await far.until('an idle ping', () => far.of('ping').some((ping) => names(ping).length === 0));

  // Jobs in hand.
  const [a, b] = ['a', 'b'].map((gate) => far.submit({ do: 'wait', gate })) as [string, string];
  await Promise.all([far.arrived('a'), far.arrived('b')]);
  const both = await far.until('a ping with just these', () =>
    far.of('ping').find((ping) => names(ping).length === 2 && [a, b].every((id) => names(ping).includes(id))),
  );
  const busyTake = await far.until('a take with both in hand', () =>
    far.takes().find(({ at, query }) => at > both.at && query.get('job_in_progress') === '1'),
  );

  // One is stopped: the other goes on, and the slot is free.
  far.queue.cancel(far.queue.find(b)!);
  await far.until('the end of the stopped job', () => far.gate('b').cut > 0);
  const afterStop = await far.until('a take with the slot of the stopped job', () =>
    far.takes().find(({ at, query }) => at > busyTake.at && query.get('batch_size') === String(SLOTS - 1)),
  );
  const next = far.submit({ do: 'return', value: 'next' });
  await far.ended(next);
  const isHeld = far.status(a) === 'IN_PROGRESS';

  // A job that is in hand is given again; one has no input.
  const given = { id: a, input: { do: 'wait', gate: 'a' } };
  await nextTakes(1, ({ operation }) => ({ json: operation === 'job-take-batch' ? [given, { id: 'empty' }] : given }));
  await far.until('an answer for the job without input', () => far.posted('empty').length > 0);
  await far.pings(1);
  if (side === 'python') await far.until('the second run', () => far.gate('a').arrived > 1); // on a busy machine later than the ping
  const runs = far.gate('a').arrived;
  far.open('a');
  await far.ended(a);

  // One is stopped that does not listen.
  const deaf = far.submit({ do: 'wait deafly', gate: 'deaf' });
  await far.arrived('deaf');
  far.queue.cancel(far.queue.find(deaf)!);
  await far.until(
    'the word that it shall stop',
    () => far.of('job-stop').filter(({ status, end }) => status === 200 && end).length === 2,
  );
  const afterDeaf = (await far.pings(2))[1]!;
  const cut = far.gate('deaf').cut;
  far.open('deaf');
  await far.until('a ping without it', () => !names(far.of('ping').at(-1)!).includes(deaf));

  // One blocks the thread.
  const blocking = far.submit({ do: 'block', gate: 'block' });
  await far.arrived('block');
  const whileBlocked = await far.pings(2);
  far.open('block');
  await far.ended(blocking);

  // Trouble at the far end.
  const failing = await nextTakes(4, (_, nth) => [500, 401, 'reset' as const, 503][nth]!);
  const empty = await nextTakes(4, () => 204);

  // The end.
  const last = far.submit({ do: 'wait', gate: 'last' });
  await far.arrived('last');
  worker.signal('SIGTERM');
  await worker.said(STOPPING[side]);
  if (side === 'python') worker.signal('SIGTERM');
  far.open('last');
  await far.ended(last);
  const code = await worker.exited;

  return {
    ...{ far, returned, errorObject, thrown, notANumber, unserialisable, tooLarge, reported, reportedMuch, shown },
    ...{ failedOnce, limited, afterLimited, reset, a, b, both, busyTake, afterStop, next, isHeld, runs },
    ...{ deaf, afterDeaf, cut, blocking, whileBlocked, failing, empty, last, code },
  };
}

/** A worker whose slots become fewer: many, two, one. */
async function slotsLife(side: Side) {
  const far = await openFarEnd(PACE[side]);
  const worker = await startWorker({ side, env: far.env, options: { concurrency: SLOTS } });
  const inHand = far.submit({ do: 'wait', gate: 'in hand' });
  await far.arrived('in hand');
  await far.ended(far.submit({ do: 'set concurrency', value: 2 }));
  await far.until('the end of the poll with many slots', () =>
    far.takes().every(({ end, query }) => end || query.get('batch_size') === null),
  );
  const waiting = far.submit({ do: 'return', value: 'waiting' });
  await Promise.race([far.ended(waiting), delay(1500)]);
  const whileInHand = far.status(waiting);
  far.open('in hand');
  await far.ended(inHand, waiting);
  const smaller = await far.until('a smaller take', () =>
    far.takes().find(({ query }) => query.get('batch_size') === '2'),
  );
  const last = far.submit({ do: 'set concurrency', value: 1 });
  await far.ended(last);
  const single = await far.until('a single take', () =>
    far.takes().find(({ at, operation }) => at > far.of('job-done', last)[0]!.at && operation === 'job-take'),
  );
  const full = ['x', 'y', 'z'].map((value) => far.submit({ do: 'return', value }));
  await far.ended(...full);
  worker.signal('SIGTERM');
  return { far, whileInHand, smaller, single, full, code: await worker.exited };
}

/** Milliseconds. Python's shortest interval is a second; the other is quicker, to save time. */
const PACE = { python: { pingInterval: 1000, hold: 700 }, ours: { pingInterval: 300, hold: 300 } };
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
async function generatorLife(side: Side) {
  const far = await openFarEnd({ hold: 2000 });
  const jobs = Object.fromEntries(
    Object.entries(GENERATED).map(([name, input]) => [name, far.submit(input)]),
  ) as Record<keyof typeof GENERATED, string>;
  far.fault = ({ operation, id }) =>
    operation === 'job-stream' && id === jobs.chunks && far.of('job-stream', id).length === 1 ? 500 : undefined;
  const worker = await startWorker({ side, env: far.env, options: { generator: true, concurrency: 10 } });
  await far.ended(...Object.values(jobs));
  const held = () => far.asked.filter(({ end, operation }) => !end && /^job-(take|stop)/.test(operation));
  const polls = await far.until('two new polls', () => {
    const both = held();
    return both.length === 2 && both.every(({ at }) => performance.now() - at < 500) && both;
  });
  worker.signal('SIGTERM');
  if (side === 'python') {
    await worker.said(STOPPING[side]);
    await delay(500); // for the loop that runs jobs to end: it looks every 0.1 s
  } else await far.until('the end of the polls', () => polls.every(({ end }) => end));
  const late = far.submit({ chunks: [] });
  const code = await worker.exited;
  await far.until('the end of the polls', () => polls.every(({ end }) => end));
  return { far, jobs, polls, late, code };
}

/** The same, with the chunks gathered; the first answer to it is 429. */
async function gatheringLife(side: Side) {
  const far = await openFarEnd(PACE[side]);
  far.fault = (asked) => (isTake(asked) && far.takes().length === 1 ? 429 : undefined);
  const job = far.submit({ chunks: ['a', { b: 2 }] });
  const env = { ...far.env, RUNPOD_WEBHOOK_GET_JOB: `${far.env.RUNPOD_WEBHOOK_GET_JOB}&pod=$RUNPOD_POD_ID` };
  const worker = await startWorker({ side, env, options: { generator: true, aggregateStream: true } });
  await far.ended(job);
  worker.signal('SIGTERM');
  return { far, job, code: await worker.exited };
}

/** Two workers that end after a job; the one that has it is killed. */
async function refreshLives(side: Side) {
  const far = await openFarEnd({ workerTimeout: 2500 });
  const job = far.submit({ do: 'wait', gate: 'killed' });
  const workers: Record<string, WorkerProcess> = {};
  for (const id of ['pod1', 'pod2']) {
    const env = { ...far.env, RUNPOD_POD_ID: id, RUNPOD_PING_INTERVAL: '500' };
    workers[id] = await startWorker({ side, env, options: { refreshWorker: true } });
  }
  await far.arrived('killed');
  const first = far.queue.find(job)!.workerId!;
  const second = first === 'pod1' ? 'pod2' : 'pod1';
  workers[first]!.kill();
  await workers[first]!.exited;
  far.open('killed');
  await far.ended(job);
  const code = await workers[second]!.exited;
  return { far, job, first, second, code };
}

/** A worker that is not fit. */
async function unfitLife(side: Side) {
  const far = await openFarEnd();
  const worker = await startWorker({ side, env: far.env, options: { unfit: 'no weights' } });
  return { far, code: await worker.exited };
}

/** A worker in a hurry: told to end twice. */
async function hurriedLife(side: Side) {
  const far = await openFarEnd();
  const job = far.submit({ do: 'wait', gate: 'hurried' });
  const worker = await startWorker({ side, env: far.env });
  await far.arrived('hurried');
  worker.signal('SIGTERM');
  await worker.said(STOPPING[side]);
  worker.signal('SIGTERM');
  return { far, job, code: await worker.exited };
}

const CHUNKS = { input: { chunks: [1, { b: 2 }] } };

/** One job without a queue, and a folder without a job. */
async function localLives(side: Side) {
  const far = await openFarEnd();
  async function run(options: Omit<Parameters<typeof startWorker>[0], 'side'>) {
    const worker = await startWorker({ side, ...options });
    return { code: await worker.exited, output: worker.output() };
  }
  const [flag, file, missing, generator] = await Promise.all([
    run({ env: far.env, argv: ['--test_input', '{"input":{"do":"return","value":{"echo":"héllo"}}}'] }),
    run({ files: { 'test_input.json': '{"input":{"do":"throw","message":"boom"}}' } }),
    run({}),
    run({ argv: ['--test_input', JSON.stringify(CHUNKS)], options: { generator: true } }),
  ]);
  return { far, flag, file, missing, generator };
}

/** A worker that is an HTTP server. */
async function openApi(side: Side, options: object, env: Record<string, string>) {
  const port = await freePort();
  const argv = ['--rp_serve_api', '--rp_api_host', '127.0.0.1', '--rp_api_port', String(port)];
  const worker = await startWorker({ side, env, options, argv });
  await worker.said({ python: 'Uvicorn running', ours: '"serving"' }[side]);
  return async (path: string, body?: unknown, method = 'POST') => {
    const answer = await fetch(`http://127.0.0.1:${port}/${path}`, {
      method,
      headers: { 'content-type': 'application/json' },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    return [answer.status, await answer.json()] as [number, Record<string, string>];
  };
}

async function apiLife(side: Side) {
  const far = await openFarEnd();
  const { GATE } = far.env;
  const call = await openApi(side, {}, { GATE });
  const echo = { input: { do: 'return', value: { echo: 'héllo' } }, webhook: `${far.base}/hook` };

  const ran = await call('run', echo);
  const id = ran[1].id!;
  const status = await call(`status/${id}`);
  const again = await call(`status/${id}`);
  const got = await call(`status/${id}`, undefined, 'GET');
  const hook = await far.until('the webhook', () => far.hooks[0]);
  const synchronous = await call('runsync', { input: { do: 'return', value: 5 } });
  const thrown = await call('runsync', { input: { do: 'throw', message: 'boom' } });
  const unknown = [await call('status/unknown'), await call('stream/unknown')];
  const refused = [];
  for (const body of [{ input: [1] }, { input: 'text' }, { input: null }, {}])
    refused.push(await call('run', body), await call('runsync', body));
  const waiting = (await call('run', { input: { do: 'wait', gate: 'api' } }))[1].id;
  const hasStarted = await Promise.race([far.arrived('api'), delay(2000)]);
  far.open('api');
  const waited = await call(`status/${waiting}`);
  const notStreamed = await call(`stream/${(await call('run', echo))[1].id}`);
  return {
    ...{ far, ran, id, status, again, got, hook, synchronous, thrown, unknown, refused },
    ...{ hasStarted, waiting, waited, notStreamed },
  };
}

async function generatorApiLife(side: Side) {
  const call = await openApi(side, { generator: true }, {});
  const { id } = (await call('run', CHUNKS))[1];
  const stream = await call(`stream/${id}`);
  const synchronous = await call('runsync', CHUNKS);
  return { id, stream, synchronous };
}

const LIVES = {
  plain: plainLife,
  slots: slotsLife,
  generator: generatorLife,
  gathering: gatheringLife,
  refresh: refreshLives,
  unfit: unfitLife,
  hurried: hurriedLife,
  local: localLives,
  api: apiLife,
  generatorApi: generatorApiLife,
};
type Lives = { [name in keyof typeof LIVES]: () => ReturnType<(typeof LIVES)[name]> };

/** Each life is lived once, whoever asks first. */
function livesOf(side: Side): Lives {
  const lived = new Map<string, Promise<unknown>>();
  const lives = Object.entries(LIVES).map(([name, live]) => {
    const once = () => {
      if (!lived.has(name)) lived.set(name, live(side));
      return lived.get(name)!;
    };
    return [name, once] as const;
  });
  return Object.fromEntries(lives) as Lives;
}

/** The two sides of each difference. */
const DIFFERENCES: Record<keyof typeof differences, Record<Side, (life: Lives) => Promise<void>>> = {
  takeFails: {
    python: async (life) => expect(apart((await life.plain()).failing)).toBeLessThan(1000),
    ours: async (life) => expect(apart((await life.plain()).failing)).toBeGreaterThan(1100),
  },
  emptyAtOnce: {
    python: async (life) => expect(apart((await life.plain()).empty)).toBeLessThan(500),
    ours: async (life) => expect(apart((await life.plain()).empty)).toBeGreaterThan(500),
  },
  fullHouse: {
    async python(life) {
      const { far, full } = await life.slots();
      expect(apart(full.flatMap((id) => far.of('job-done', id)))).toBeGreaterThan(1500);
    },
    async ours(life) {
      const { far, full } = await life.slots();
      expect(apart(full.flatMap((id) => far.of('job-done', id)))).toBeLessThan(1000);
    },
  },
  outcomeLimited: {
    async python(life) {
      const { far, limited, afterLimited } = await life.plain();
      expect(far.of('job-done', limited)).toHaveLength(1);
      expect(names(afterLimited)).not.toContain(limited);
      expect(far.status(limited)).toBe('IN_PROGRESS');
    },
    async ours(life) {
      const { far, limited, afterLimited } = await life.plain();
      const texts = far.of('job-done', limited).map(({ text }) => text);
      expect(texts.length).toBeGreaterThan(1);
      expect(new Set(texts).size).toBe(1);
      expect(names(afterLimited)).toContain(limited);
      expect(far.status(limited)).toBe('COMPLETED');
    },
  },
  outcomeReset: {
    async python(life) {
      const { far, reset } = await life.plain();
      expect(far.of('job-done', reset)).toHaveLength(1);
      expect(far.status(reset)).toBe('IN_PROGRESS');
    },
    async ours(life) {
      const { far, reset } = await life.plain();
      const [first, second, ...more] = far.of('job-done', reset).map(({ text }) => text);
      expect(second).toBe(first);
      expect(more).toEqual([]);
      expect(far.status(reset)).toBe('COMPLETED');
    },
  },
  unserialisable: {
    async python(life) {
      const { far, unserialisable } = await life.plain();
      expect(far.of('job-done', unserialisable)).toEqual([]);
      expect(far.status(unserialisable)).toBe('IN_PROGRESS');
    },
    async ours(life) {
      const { far, unserialisable } = await life.plain();
      const [body, ...more] = far.posted(unserialisable);
      expect(JSON.parse(body.error)).toMatchObject({ error_message: expect.stringContaining('BigInt') });
      expect(more).toEqual([]);
      expect(far.status(unserialisable)).toBe('FAILED');
    },
  },
  notANumber: {
    async python(life) {
      const { far, notANumber } = await life.plain();
      expect(far.of('job-done', notANumber).map(({ text }) => text)).toEqual(['{"output": {"value": NaN}}']);
    },
    async ours(life) {
      const { far, notANumber } = await life.plain();
      expect(far.posted(notANumber)).toEqual([{ output: { value: null } }]);
    },
  },
  tooLarge: {
    async python(life) {
      const [{ far, tooLarge }, stream] = [await life.plain(), await life.generator()];
      expect(far.posted(tooLarge)[0].output).toHaveLength(LARGE.output);
      const chunk = stream.far.of('job-stream', stream.jobs.tooLarge)[1]!;
      expect(JSON.parse(chunk.text).output).toHaveLength(LARGE.chunk);
    },
    async ours(life) {
      const [{ far, tooLarge }, stream] = [await life.plain(), await life.generator()];
      expect(far.posted(tooLarge)).toEqual([{ error: expect.stringContaining('the output has 10.0 MB') }]);
      expect(stream.far.of('job-stream', stream.jobs.tooLarge)).toHaveLength(1);
      expect(stream.far.posted(stream.jobs.tooLarge)).toEqual([
        { error: expect.stringContaining('a chunk has 1.0 MB') },
      ]);
    },
  },
  errorObject: {
    async python(life) {
      const [{ far, errorObject }, stream] = [await life.plain(), await life.generator()];
      expect(far.posted(errorObject)).toEqual([{ error: { code: 1 } }]);
      expect(stream.far.posted(stream.jobs.errorObject)).toEqual([{ error: "{'code': 1}" }]);
    },
    async ours(life) {
      const [{ far, errorObject }, stream] = [await life.plain(), await life.generator()];
      expect(far.posted(errorObject)).toEqual([{ error: '{"code":1}' }]);
      expect(stream.far.posted(stream.jobs.errorObject)).toEqual([{ error: '{"code":1}' }]);
    },
  },
  thrown: {
    async python(life) {
      const { far, thrown } = await life.plain();
      const told = JSON.parse(far.posted(thrown)[0].error);
      expect(told).toMatchObject({
        error_type: "<class 'ValueError'>",
        hostname: 'pod1-host',
        runpod_version: '1.12.0',
      });
      expect(Object.keys(told)).toHaveLength(6);
    },
    async ours(life) {
      const { far, thrown } = await life.plain();
      const told = JSON.parse(far.posted(thrown)[0].error);
      expect(told.error_type).toBe('RangeError');
      expect(Object.keys(told)).toHaveLength(4);
    },
  },
  generatorThrows: {
    async python(life) {
      const { far, jobs } = await life.generator();
      expect(far.posted(jobs.throws)).toEqual([
        { error: expect.stringMatching(/^handler: boom \ntraceback: Traceback/) },
      ]);
    },
    async ours(life) {
      const { far, jobs } = await life.generator();
      const [{ error }] = far.posted(jobs.throws) as [{ error: string }];
      expect(JSON.parse(error)).toMatchObject({ error_type: 'RangeError', error_message: 'boom' });
    },
  },
  progress: {
    async python(life) {
      const { far, reportedMuch } = await life.plain();
      const values = far.posted(reportedMuch).flatMap(({ status, output }) => (status ? [output] : []));
      expect(values.sort((a, b) => a - b)).toEqual(Array.from({ length: 20 }, (_, n) => n + 1));
    },
    async ours(life) {
      const { far, reportedMuch } = await life.plain();
      const posted = far.posted(reportedMuch);
      expect(posted.pop()).toEqual({ output: 'reported' });
      const values = posted.map(({ output }) => output);
      expect(values).toEqual([...values].sort((a, b) => a - b));
      expect(values.length).toBeLessThan(20);
      const [outcome, progress] = far.of('job-done', reportedMuch).reverse();
      expect(outcome!.at).toBeGreaterThan(progress!.ended!);
    },
  },
  stopped: {
    async python(life) {
      const { afterDeaf, deaf, cut } = await life.plain();
      expect(cut).toBe(1);
      expect(names(afterDeaf)).not.toContain(deaf);
    },
    async ours(life) {
      const { afterDeaf, deaf, cut } = await life.plain();
      expect(cut).toBe(0);
      expect(names(afterDeaf)).toContain(deaf);
    },
  },
  givenTwice: {
    async python(life) {
      const { far, a, runs } = await life.plain();
      expect(runs).toBe(2);
      expect(far.posted(a)).toEqual([{ output: 'waited' }, { output: 'waited' }]);
    },
    async ours(life) {
      const { far, a, runs } = await life.plain();
      expect(runs).toBe(1);
      expect(far.posted(a)).toEqual([{ output: 'waited' }]);
    },
  },
  concurrencyChanges: {
    python: async (life) => expect((await life.slots()).whileInHand).toBe('IN_QUEUE'),
    ours: async (life) => expect((await life.slots()).whileInHand).toBe('COMPLETED'),
  },
  shortInterval: {
    python: async (life) => expect((await life.refresh()).far.of('ping')).toEqual([]),
    async ours(life) {
      const { far, second } = await life.refresh();
      const pings = far.of('ping').filter(({ worker }) => worker === second);
      expect(apart(pings) / (pings.length - 1)).toBeLessThan(900); // of an interval of 500
    },
  },
  version: {
    async python(life) {
      const [plain, unfit] = [await life.plain(), await life.unfit()];
      for (const { query } of [...plain.far.of('ping'), ...unfit.far.of('ping')])
        expect(query.get('runpod_version')).toBe('1.12.0');
    },
    async ours(life) {
      const [plain, unfit] = [await life.plain(), await life.unfit()];
      for (const { query } of [...plain.far.of('ping'), ...unfit.far.of('ping')])
        expect(query.has('runpod_version')).toBe(false);
    },
  },
  requestId: {
    async python(life) {
      const { far, full } = await life.slots();
      expect(far.takes().map(({ headers }) => headers['x-request-id'])).toEqual(
        expect.arrayContaining(full.slice(0, 2)),
      );
    },
    async ours(life) {
      const { far } = await life.slots();
      expect(new Set(far.takes().map(({ headers }) => headers['x-request-id']))).toEqual(new Set([undefined]));
    },
  },
  podInTake: {
    async python(life) {
      const [take] = (await life.gathering()).far.takes();
      expect(take!.path).toBe('job-take/pod1?gpu=NVIDIA+L4&pod=$RUNPOD_POD_ID&job_in_progress=0');
    },
    async ours(life) {
      const [take] = (await life.gathering()).far.takes();
      expect(take!.path).toBe('job-take/pod1?gpu=NVIDIA+L4&pod=pod1&job_in_progress=0');
    },
  },
  signalIdle: {
    python: async (life) =>
      expect((await life.generator()).polls.map(({ end }) => end)).toEqual(['answered', 'answered']),
    ours: async (life) => expect((await life.generator()).polls.map(({ end }) => end)).toEqual(['cut', 'cut']),
  },
  lateJob: {
    async python(life) {
      const { far, late, code } = await life.generator();
      expect([far.status(late), far.posted(late), code]).toEqual(['IN_PROGRESS', [], 0]);
    },
    async ours(life) {
      const { far, late, code } = await life.generator();
      expect([far.status(late), far.posted(late), code]).toEqual(['IN_QUEUE', [], 0]);
    },
  },
  localOutcome: {
    python: async (life) =>
      expect((await life.local()).flag.output).toContain("Job result: {'output': {'echo': 'héllo'}}"),
    async ours(life) {
      const { flag } = await life.local();
      expect(flag.output.trim().split('\n').at(-1)).toBe('{"output":{"echo":"héllo"}}');
    },
  },
  localGenerator: {
    async python(life) {
      const { generator } = await life.local();
      expect(generator.output).toContain("Job result: {'output': <async_generator object");
      expect(generator.code).toBe(0);
    },
    async ours(life) {
      const { generator } = await life.local();
      expect(JSON.parse(generator.output.trim().split('\n').at(-1)!)).toEqual({ output: CHUNKS.input.chunks });
      expect(generator.code).toBe(0);
    },
  },
  apiRun: {
    python: async (life) => expect((await life.api()).hasStarted).toBeUndefined(),
    ours: async (life) => expect((await life.api()).hasStarted).toBe(true),
  },
  apiAgain: {
    async python(life) {
      const { id, again } = await life.api();
      expect(again).toEqual([200, { id, status: 'FAILED', error: 'Job ID not found' }]);
    },
    async ours(life) {
      const { status, again } = await life.api();
      expect(again).toEqual(status);
    },
  },
  apiGet: {
    async python(life) {
      expect((await life.api()).got[0]).toBe(405);
    },
    async ours(life) {
      const { status, got } = await life.api();
      expect(got).toEqual(status);
    },
  },
  apiHook: {
    async python(life) {
      expect((await life.api()).hook).toEqual({ output: { echo: 'héllo' } });
    },
    async ours(life) {
      const { status, hook } = await life.api();
      expect(hook).toEqual(status[1]);
    },
  },
  apiNoStream: {
    async python(life) {
      const { notStreamed } = await life.api();
      expect(notStreamed[1]).toMatchObject({ status: 'FAILED', error: expect.stringContaining('must be a generator') });
    },
    async ours(life) {
      const { notStreamed } = await life.api();
      expect(notStreamed[1]).toMatchObject({ status: 'COMPLETED', stream: [] });
    },
  },
  secondSignal: {
    async python(life) {
      const { far, last, code } = await life.plain(); // told twice, too
      expect([far.status(last), code]).toEqual(['COMPLETED', 0]);
    },
    async ours(life) {
      const { far, job, code } = await life.hurried();
      expect([far.status(job), far.posted(job), code]).toEqual(['IN_PROGRESS', [], 1]);
    },
  },
};

describe.each<Side>(['ours', 'python'])('%s', (side) => {
  const isSkipped = side === 'python' && skipped !== '';
  const life = livesOf(side);

  describe.skipIf(isSkipped)(`as a worker${side === 'python' ? skipped : ''}`, { timeout: 60_000 }, () => {
    beforeAll(() => {
      const { hurried, local, api, generatorApi, ...workers } = life;
      const quietly = (live: () => Promise<unknown>) => live().catch(() => {}); // the tests that ask for it will say
      for (const live of Object.values(workers)) quietly(live);
      quietly(generatorApi)
        .then(() => quietly(api))
        .then(() => quietly(local));
    });

    test('many free slots: a batch is asked for; one: a single job', async () => {
      const { far, single } = await life.slots();
      expect(far.takes()[0]!.path).toBe(`job-take-batch/pod1?gpu=NVIDIA+L4&batch_size=${SLOTS}&job_in_progress=0`);
      expect(single.path).toBe('job-take/pod1?gpu=NVIDIA+L4&job_in_progress=0');
    });

    test('a take says how many slots are free, and whether a job is in hand', async () => {
      const { busyTake } = await life.plain();
      expect(busyTake.path).toBe(`job-take-batch/pod1?gpu=NVIDIA+L4&batch_size=${SLOTS - 2}&job_in_progress=1`);
    });

    test('polls carry the bare key', async () => {
      const { far } = await life.plain();
      const stops = far.of('job-stop');
      expect(new Set(stops.map(({ path }) => path))).toEqual(new Set(['job-stop/pod1?gpu=NVIDIA+L4']));
      for (const { headers } of [...far.takes(), ...stops])
        expect(headers).toMatchObject({ authorization: KEY, 'content-type': 'application/json' });
    });

    test.each(RETURNED.map((row, index) => [...row, index] as const))(
      'a handler that returns %j',
      async (_, body, index) => {
        const { far, returned } = await life.plain();
        expect(far.posted(returned[index]!)).toEqual([body]);
        const { status, output, error } = far.queue.find(returned[index]!)!;
        expect({ status, output, error }).toEqual({
          status: 'error' in body ? 'FAILED' : 'COMPLETED',
          ...{ output: 'error' in body ? undefined : ((body as { output?: unknown }).output ?? null) },
          error: (body as { error?: string }).error,
        });
      },
    );

    test('how an outcome is posted', async () => {
      const { far, thrown, next } = await life.plain();
      for (const id of [thrown, next]) {
        const [done] = far.of('job-done', id);
        expect(done!.path).toBe(`job-done/pod1/${id}?gpu=NVIDIA+L4&isStream=false`);
        expect(done!.headers).toMatchObject({
          authorization: KEY,
          charset: 'utf-8',
          'content-type': 'application/x-www-form-urlencoded',
          'x-request-id': id,
        });
      }
    });

    test('a handler that throws fails its job, with what it threw as JSON in text', async () => {
      const { far, thrown } = await life.plain();
      const [{ error, ...more }, ...others] = far.posted(thrown) as [{ error: string }];
      expect([more, others]).toEqual([{}, []]);
      const told = JSON.parse(error);
      expect(told).toMatchObject({ error_message: 'boom', worker_id: 'pod1' });
      expect(told.error_traceback).toContain(side === 'python' ? 'worker.py' : 'worker.ts');
      const keys = ['error_type', 'error_message', 'error_traceback', 'worker_id'];
      expect(Object.keys(told).filter((key) => keys.includes(key))).toEqual(keys);
      expect(far.queue.find(thrown)).toMatchObject({ status: 'FAILED', error });
    });

    test('a job without input fails', async () => {
      const { far } = await life.plain();
      const [{ error }] = far.posted('empty') as [{ error: string }];
      expect(JSON.parse(error)).toMatchObject({ error_message: expect.stringContaining('input'), worker_id: 'pod1' });
    });

    test('progress is posted as job-done and shown while the job runs', async () => {
      const { far, reported, shown } = await life.plain();
      const [progress] = far.of('job-done', reported);
      expect(progress!.path).toBe(`job-done/pod1/${reported}?gpu=NVIDIA+L4&isStream=false`);
      expect(progress!.headers).toMatchObject({
        authorization: KEY,
        charset: 'utf-8',
        'content-type': 'application/x-www-form-urlencoded',
        'x-request-id': reported,
      });
      expect(far.posted(reported)).toEqual([{ status: 'IN_PROGRESS', output: { step: 1 } }, { output: 'reported' }]);
      expect(shown).toEqual({ step: 1 });
    });

    test('an outcome that met 500 is sent again, byte for byte', async () => {
      const { far, failedOnce } = await life.plain();
      const texts = far.of('job-done', failedOnce).map(({ text }) => text);
      expect(texts).toHaveLength(2);
      expect(texts[1]).toBe(texts[0]);
      expect(far.queue.find(failedOnce)).toMatchObject({ status: 'COMPLETED', output: 'failed once' });
    });

    test('pings name the jobs in hand, and none when idle', async () => {
      const { far, a, b, both } = await life.plain();
      const path = ({ path }: Asked) => path.replace(/.runpod_version=.*/, '');
      expect([`${a}%2C${b}`, `${b}%2C${a}`].map((ids) => `ping/pod1?job_id=${ids}`)).toContain(path(both));
      expect(far.of('ping').map(path)).toContain('ping/pod1');
      for (const { headers } of far.of('ping')) expect(headers).toMatchObject({ authorization: KEY });
    });

    test('pings keep their interval', async () => {
      const { far } = await life.plain();
      const pings = far.of('ping');
      const mean = apart(pings) / (pings.length - 1);
      expect(mean).toBeGreaterThan(0.9 * PACE[side].pingInterval);
      expect(mean).toBeLessThan(2 * PACE[side].pingInterval);
    });

    test('pings go on and name the job while it blocks its thread', async () => {
      const { far, blocking, whileBlocked } = await life.plain();
      for (const ping of whileBlocked) expect(names(ping)).toEqual([blocking]);
      expect(far.posted(blocking)).toEqual([{ output: 'blocked' }]);
    });

    test('of a stopped job nothing is posted, its slot is free, and the other goes on', async () => {
      const { far, a, b, deaf, afterStop, next, isHeld } = await life.plain();
      expect(far.posted(b)).toEqual([]);
      expect(far.posted(deaf)).toEqual([]);
      expect(far.status(b)).toBe('CANCELLED');
      expect(afterStop.query.get('job_in_progress')).toBe('1');
      expect(far.queue.find(next)).toMatchObject({ status: 'COMPLETED', output: 'next' });
      expect([isHeld, far.status(a)]).toEqual([true, 'COMPLETED']);
    });

    test('the concurrency may change', async () => {
      const { far, smaller, single } = await life.slots();
      expect(smaller.path).toMatch(/^job-take-batch\/pod1\?gpu=NVIDIA\+L4&batch_size=2&job_in_progress=[01]$/);
      expect(new Set(far.takes().flatMap(({ at, path }) => (at < single.at ? [] : [path])))).toEqual(
        new Set([single.path]),
      );
    });

    test('at SIGTERM the job in hand runs to its end and is posted; nothing more is taken', async () => {
      const { far, last, code } = await life.plain();
      expect(far.posted(last)).toEqual([{ output: 'waited' }]);
      expect(far.status(last)).toBe('COMPLETED');
      expect(code).toBe(0);
      expect(far.takes().filter(({ at }) => at > far.of('job-done', last)[0]!.at)).toEqual([]);
    });

    test('a generator’s values are sent as chunks, each when the one before has been accepted, then the end', async () => {
      const { far, jobs } = await life.generator();
      const chunks = far.of('job-stream', jobs.chunks);
      expect(chunks.map(({ text }) => JSON.parse(text))).toEqual(
        ['a', ...GENERATED.chunks.chunks].map((output) => ({ output })),
      );
      chunks.forEach(({ path, headers }, nth) => {
        expect(path).toBe(`job-stream/pod1/${jobs.chunks}?gpu=NVIDIA+L4&isStream=false`);
        expect(headers).toMatchObject({
          authorization: KEY,
          charset: 'utf-8',
          'content-type': 'application/x-www-form-urlencoded',
          // Python's says of a repeat whatever was posted last
          ...(side === 'ours' || nth !== 1 ? { 'x-request-id': jobs.chunks } : {}),
        });
      });
      const [done, ...more] = far.of('job-done', jobs.chunks);
      expect(done!.path).toBe(`job-done/pod1/${jobs.chunks}?gpu=NVIDIA+L4&isStream=true`);
      expect(JSON.parse(done!.text)).toEqual({ output: [] });
      expect(more).toEqual([]);
      expect(done!.at).toBeGreaterThan(chunks.at(-1)!.at);
      expect(far.status(jobs.chunks)).toBe('COMPLETED');
    });

    test('a generator without values', async () => {
      const { far, jobs } = await life.generator();
      expect(far.of('job-stream', jobs.none)).toEqual([]);
      expect(far.posted(jobs.none)).toEqual([{ output: [] }]);
      expect(far.of('job-done', jobs.none)[0]!.query.get('isStream')).toBe('true');
    });

    test('a chunk with an error ends the stream and fails the job', async () => {
      const { far, jobs } = await life.generator();
      expect(far.of('job-stream', jobs.error).map(({ text }) => JSON.parse(text))).toEqual([{ output: 1 }]);
      expect(far.posted(jobs.error)).toEqual([{ error: 'bad' }]);
      expect(far.of('job-done', jobs.error)[0]!.query.get('isStream')).toBe('true');
      expect(far.status(jobs.error)).toBe('FAILED');
    });

    test('a generator that throws fails the job; what it gave before stays sent', async () => {
      const { far, jobs } = await life.generator();
      expect(far.of('job-stream', jobs.throws).map(({ text }) => JSON.parse(text))).toEqual([{ output: 1 }]);
      expect(far.posted(jobs.throws)).toEqual([{ error: expect.stringContaining('boom') }]);
      expect(far.of('job-done', jobs.throws)[0]!.query.get('isStream')).toBe('true');
      expect(far.status(jobs.throws)).toBe('FAILED');
    });

    test('chunks are gathered where that is wanted', async () => {
      const { far, job, code } = await life.gathering();
      expect(far.of('job-stream', job)).toHaveLength(2);
      expect(far.posted(job)).toEqual([{ output: ['a', { b: 2 }] }]);
      expect(far.of('job-done', job)[0]!.query.get('isStream')).toBe('true');
      expect(code).toBe(0);
    });

    test('429 at job-take: the next is asked for after five seconds', async () => {
      const { far } = await life.gathering();
      const [first, second] = far.takes();
      expect(second!.at - first!.at).toBeGreaterThan(4900);
      expect(second!.at - first!.at).toBeLessThan(9000);
    });

    test('a worker that shall be fresh after each job says so and ends', async () => {
      const { far, job, second, code } = await life.refresh();
      expect(far.posted(job)).toEqual([{ output: 'waited', stopPod: true }]);
      expect(far.of('job-done', job)[0]!.worker).toBe(second);
      expect(code).toBe(0);
    });

    test('a killed worker’s job is done by another', async () => {
      const { far, job, first, second } = await life.refresh();
      expect(far.gate('killed').arrived).toBe(2);
      expect(first).not.toBe(second);
      expect(far.queue.find(job)).toMatchObject({ status: 'COMPLETED', output: 'waited', workerId: second });
    });

    test('a worker that is not fit says why, takes nothing and ends with 1', async () => {
      const { far, code } = await life.unfit();
      const [report, ...more] = far.asked;
      expect(report!.path.replace(/&runpod_version=.*/, '')).toBe(
        'ping/pod1?status=unhealthy&check=weights&reason=RuntimeError%3A+no+weights',
      );
      expect(report!.headers.authorization).toBe(KEY);
      expect(more).toEqual([]);
      expect(code).toBe(1);
    });

    test('--test_input runs one job, whatever queue there is, and ends with 0', async () => {
      const { far, flag } = await life.local();
      expect(flag.output).toContain('héllo');
      expect(flag.code).toBe(0);
      expect(far.asked).toEqual([]);
    });

    test('without a queue the job is test_input.json; if it fails the worker says why and ends with 1', async () => {
      const { file } = await life.local();
      expect(file.output).toContain('boom');
      expect(file.code).toBe(1);
    });

    test('without a queue and a job the worker says so and ends with 1', async () => {
      const { missing } = await life.local();
      expect(missing.output).toContain('test_input.json');
      expect(missing.code).toBe(1);
    });

    test('--rp_serve_api: /run, then /status', async () => {
      const { ran, id, status } = await life.api();
      expect(ran).toEqual([200, { id: expect.stringMatching(/./), status: 'IN_PROGRESS' }]);
      expect(status).toEqual([200, { id, status: 'COMPLETED', output: { echo: 'héllo' } }]);
    });

    test('--rp_serve_api: /status waits for the outcome', async () => {
      const { waiting, waited } = await life.api();
      expect(waited).toEqual([200, { id: waiting, status: 'COMPLETED', output: 'waited' }]);
    });

    test('--rp_serve_api: /runsync', async () => {
      const { synchronous, thrown } = await life.api();
      expect(synchronous).toEqual([200, { id: expect.any(String), status: 'COMPLETED', output: 5 }]);
      expect(thrown).toEqual([200, { id: expect.any(String), status: 'FAILED', error: expect.any(String) }]);
      expect(JSON.parse(thrown[1].error!)).toMatchObject({ error_message: 'boom' });
    });

    test('--rp_serve_api: /stream and /runsync of a generator', async () => {
      const { id, stream, synchronous } = await life.generatorApi();
      const { chunks } = CHUNKS.input;
      expect(stream).toEqual([200, { id, status: 'COMPLETED', stream: chunks.map((output) => ({ output })) }]);
      expect(synchronous).toEqual([200, { id: expect.any(String), status: 'COMPLETED', output: chunks }]);
    });

    test('--rp_serve_api: an unknown job has failed', async () => {
      const { unknown } = await life.api();
      const answer = [200, { id: 'unknown', status: 'FAILED', error: 'Job ID not found' }];
      expect(unknown).toEqual([answer, answer]);
    });

    test('--rp_serve_api: the input must be an object', async () => {
      const { refused } = await life.api();
      for (const [status, body] of refused) {
        expect(status).toBe(422);
        expect(body).toHaveProperty('detail');
      }
    });

    test.each(Object.entries(differences) as [keyof typeof differences, Difference][])('differs: %s', async (name) => {
      await DIFFERENCES[name][side](life);
    });
  });
});

test('README.md tells of every difference', async () => {
  const rows = Object.values(differences).map(
    ({ what, python, ours, reason }) => `| ${what} | ${python} | ${ours} | ${reason} |`,
  );
  const table = ['| | Python | here | because |', '|---|---|---|---|', ...rows].join('\n');
  expect(await readFile(new URL('README.md', import.meta.url), 'utf8')).toContain(table);
});
