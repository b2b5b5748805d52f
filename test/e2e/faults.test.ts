import { randomUUID } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { STAGES, type Stage, taskFolder } from '../../core/job.ts';
import { MINUTE, SECOND } from '../../core/time.ts';
import { seededRandom } from '../soak/prng.ts';
import { after, answer, type Fault, json, reset, resetAfter } from './fault-injection.ts';
import { type Harness, openHarness, type TestJob, type WorkerProcess } from './harness.ts';

vi.setConfig({ testTimeout: 60 * SECOND }); // a process starts in one second, or in five where many others run

/**
 * Real worker processes against faulty servers. In every failure of a worker or of its connection to RunPod, every job has exactly one outcome,
 * a result has exactly its files, and nothing is left over.
 */
let harness: Harness;
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'faults-'));
  harness = await openHarness(folder, { pollTimeout: MINUTE }); // no exit may wait for a held poll: that would be too late
});
afterAll(async () => {
  await harness?.close();
  await rm(folder, { recursive: true });
});
afterEach(() => {
  harness.fault = () => undefined;
});

/** The running worker, or a new one. */
const runningWorker = () => harness.workers.find(({ isAlive }) => isAlive()) ?? harness.startWorker();

const PROMPT_FILES = [1, 2, 3, 4].map((n) => `imagine-${n}.png`).concat('imagine.json', 'still.jpg', 'still.png');
const videoFiles = (count: number) =>
  Array.from({ length: count }, (_, i) => ['jpg', 'mp4', 'webp'].map((type) => `job/video-${i + 1}.${type}`)).flat();
const RESULT_FILES = ['job/grid.mp4', ...videoFiles(2), 'result.json'];

/** What must be true of every job that has ended. */
async function expectOneEnd(job: TestJob, status: string) {
  expect(await harness.waitForEnd(job), harness.workers.at(-1)!.logTail()).toBe(status);
  expect(job.ends).toEqual(status === 'CANCELLED' ? [] : [status]);
  expect(job.outcomes.filter(({ accepted }) => accepted)).toHaveLength(status === 'CANCELLED' ? 0 : 1);
  for (const [worker, bodies] of job.posted) expect(new Set(bodies).size, `${worker} posts one outcome`).toBe(1);
  expect(harness.snapshot(job)).toBe(job.atEnd);
}

/** What must also be true of a job with a prompt and two videos that has succeeded. */
async function expectSuccess(job: TestJob) {
  await expectOneEnd(job, 'COMPLETED');
  expect(await harness.objects(job)).toEqual([...PROMPT_FILES, ...RESULT_FILES].sort());
  expect(harness.paymentsOf(job.taskId)).toBe(1);
}

/** What must be true when no job is running and another worker has followed each dead one. */
async function expectNoLeftovers() {
  expect(await harness.leftovers()).toEqual([]);
  for (const worker of harness.workers.filter(({ isAlive }) => !isAlive()))
    await expect.poll(worker.isGroupAlive, { message: worker.id }).toBe(false); // tsx's compiler ends a moment later
}

/** A fault that delays requests until `release` is called. */
function gate() {
  const events = new EventEmitter();
  const released = once(events, 'release');
  return { hold: after(() => released), release: () => void events.emit('release') };
}

/**
 * Submits a job whose worker cannot report on it, and so cannot end it, until `release`. Resolves when the job has reached the stage. In
 * `still` it stays there: the bridge has been paid, and does not answer.
 */
async function jobIn(stage: Stage, worker: WorkerProcess) {
  const { hold, release } = gate();
  let isAtBridge = false;
  harness.fault = ({ operation, id }) => {
    if (operation === 'message' && stage === 'still') {
      isAtBridge = true;
      harness.notifyChange();
      return hold;
    }
    return (operation === 'progress' || operation === 'outcome') && id === job.id ? hold : undefined;
  };
  const job = harness.submit();
  await harness.waitFor(
    () => worker.hasStarted(job, stage) && (stage !== 'still' || isAtBridge),
    `${worker.id} to start ${stage}`,
  );
  return { job, release };
}

describe.each(STAGES)('in the stage %s', (stage) => {
  test('a worker that RunPod tells to stop posts nothing, leaves nothing of the job, and takes the next job', async () => {
    const worker = runningWorker();
    await harness.waitForStopPoll(worker);
    const { job, release } = await jobIn(stage, worker);
    harness.cancel(job);
    const next = harness.submit();
    await harness.waitForStop(worker, job);
    release();
    await expectSuccess(next);
    await expectOneEnd(job, 'CANCELLED');
    expect(job.posted.size).toBe(0);
    const left = (await harness.objects(job)).filter((name) => !PROMPT_FILES.includes(name));
    expect([[], RESULT_FILES]).toContainEqual(left); // the result, if it was written before the worker was told to stop
    expect(harness.paymentsOf(job.taskId)).toBe(1);
    expect(worker.isAlive()).toBe(true);
    await expectNoLeftovers();
  });

  test('after kill -9 another worker completes the job, for one payment', async () => {
    const worker = runningWorker();
    const { job, release } = await jobIn(stage, worker);
    worker.kill('SIGKILL');
    await harness.waitFor(() => !worker.isAlive(), `${worker.id} to die`);
    release();
    expect(await harness.waitForExit(worker)).toMatchObject({ signal: 'SIGKILL' });
    expect(harness.statusOf(job)).toBe('IN_QUEUE');
    harness.startWorker();
    await expectSuccess(job);
    await expectNoLeftovers();
  });

  test('after SIGTERM the worker completes its job, takes no other, and exits', async () => {
    const worker = runningWorker();
    const { job, release } = await jobIn(stage, worker);
    const waiting = harness.submit();
    worker.kill('SIGTERM');
    release();
    expect(await harness.waitForExit(worker)).toEqual({ code: 0, signal: null });
    await expectSuccess(job);
    expect(harness.statusOf(waiting)).toBe('IN_QUEUE');
    harness.cancel(waiting);
    await expectNoLeftovers();
  });
});

test('a prompt is not sent again when a worker was killed while sending it, because the bridge may have been paid', async () => {
  const worker = runningWorker();
  const { hold, release } = gate();
  harness.fault = ({ operation }) => {
    if (operation === 'imagine') worker.kill('SIGKILL');
    return operation === 'imagine' ? hold : undefined;
  };
  const job = harness.submit();
  await harness.waitFor(() => !worker.isAlive(), `${worker.id} to die`);
  release();
  await harness.waitForExit(worker);
  await harness.waitFor(() => harness.paymentsOf(job.taskId) > 0, 'the prompt to arrive');
  harness.startWorker();
  await expectOneEnd(job, 'FAILED');
  expect(JSON.parse(harness.queue.find(job.id)!.error!)).toMatchObject({ code: 'lost', retryable: true });
  expect(harness.paymentsOf(job.taskId)).toBe(1);
  await expectNoLeftovers();
});

/** Each fault once, alternating with real answers; then only real answers. */
function everyOther(faults: Fault[]): () => Fault | undefined {
  let count = 0;
  return () => (count++ % 2 === 0 ? faults.shift() : undefined);
}
/** Each fault once, in order; then only real answers. */
const inTurn =
  (...faults: Fault[]) =>
  () =>
    faults.shift();

test('every job ends once, with every answer of RunPod and with none', async () => {
  for (const worker of harness.workers.filter(({ isAlive }) => isAlive())) {
    worker.kill('SIGTERM');
    await harness.waitForExit(worker);
  }
  const slow = after(() => delay(300));
  const takes = [
    answer(500),
    reset,
    answer(200, '<html>not now</html>'),
    answer(200),
    answer(401),
    json(null),
    json('job'),
    json([]),
    json({ input: {} }),
    json({ id: 7, input: {} }),
    json({ id: 'unknown-u1' }),
    json({ id: 'unknown-u2', input: null }),
    json({ id: 'unknown-u3', input: 'text' }),
    slow,
    answer(204),
    answer(400),
    answer(429),
  ];
  const take = everyOther(takes);
  const stop = inTurn(answer(500), reset, answer(200, '<html>'), json({ jobsToStop: 'all' }));
  const ping = inTurn(answer(500), reset, answer(429), slow);
  const progress = everyOther([answer(500), reset, answer(429), slow, resetAfter, answer(404)]);
  const outcomes = [
    [answer(500), answer(500)], // two of three times
    [reset],
    [resetAfter], // accepted, and the worker can't know
    [answer(429), answer(429)],
    [slow],
    [answer(503), resetAfter, reset],
    [answer(408), answer(425)],
  ].map((faults) => inTurn(...faults));
  const jobs = outcomes.map(() => harness.submit());
  const broken = [{ steps: 'many' }, { model: 'svd' }, { task_id: '../../etc' }].map((change) =>
    harness.submit(change),
  );
  const unusable = [null, 'text', [], {}].map((input) => harness.submitAny(input));
  const { hold, release } = gate();
  const stopped = harness.submit({ prompt: 'held' });
  harness.fault = ({ operation, id, body }) => {
    if (operation === 'take') return take();
    if (operation === 'stop') return stop();
    if (operation === 'ping') return ping();
    if (operation === 'imagine' && body.ref === stopped.taskId) return hold;
    if (operation === 'progress') return progress();
    if (operation === 'outcome') return outcomes[jobs.findIndex((job) => job.id === id)]?.();
    return undefined;
  };
  const worker = harness.startWorker({ WORKER_CONCURRENCY: '2' });
  for (const job of jobs) await expectSuccess(job);
  for (const job of broken) {
    await expectOneEnd(job, 'FAILED');
    expect(JSON.parse(harness.queue.find(job.id)!.error!)).toMatchObject({ code: 'invalid_input' });
  }
  for (const job of unusable) await expectOneEnd(job, 'FAILED');
  expect(jobs[2]!.posted.get(worker.id)).toHaveLength(2); // the faults were met
  await harness.waitFor(() => worker.hasStarted(stopped, 'still'), 'the job that will be stopped');
  harness.cancel(stopped);
  await harness.waitForStop(worker, stopped);
  release();
  await expectOneEnd(stopped, 'CANCELLED');
  while (takes.length > 0) await expectOneEnd(harness.submit({ steps: 'many' }), 'FAILED'); // every fault is met
  worker.kill('SIGTERM');
  expect(await harness.waitForExit(worker)).toEqual({ code: 0, signal: null });
  expect(stopped.posted.size).toBe(0);
  await expectNoLeftovers();
});

const SEED = Number(process.env.FAULTS_SEED ?? 23);
const JOBS = Number(process.env.FAULTS_JOBS ?? 25);

// The seed chooses the faults; the order of events also depends on the processes.
test(`each of ${JOBS} jobs ends once while workers, jobs and requests fail at random (seed ${SEED})`, async () => {
  const random = seededRandom(SEED);
  const oneOf = <T>(choices: readonly T[]) => choices[Math.floor(random() * choices.length)]!;
  const slow: Fault = (pass, c) => after(() => delay(200 * random()))(pass, c);
  const malformed = [json(null), json({ id: 'unknown-u1' }), json({ input: {} }), json([7]), answer(200, '{"id":')];
  const faults: Record<string, { share: number; of: Fault[] }> = {
    take: { share: 0.15, of: [answer(500), reset, slow, answer(400), ...malformed] },
    outcome: { share: 0.4, of: [answer(500), answer(503), answer(429), reset, resetAfter, slow] },
    progress: { share: 0.2, of: [answer(500), answer(429), reset, resetAfter, slow] },
    stop: { share: 0.2, of: [answer(500), reset, slow, answer(200, '{')] },
    ping: { share: 0.3, of: [answer(500), reset, slow] },
  };
  harness.fault = ({ operation }) => {
    const { share, of } = faults[operation] ?? { share: 0, of: [] };
    return random() < share ? oneOf(of) : undefined;
  };

  type Event = 'SIGKILL' | 'SIGTERM' | 'stop';
  /** What happens to the worker, or to the job itself, when the job reaches a stage. */
  const events = new Map<string, { stage: Stage; event: Event }>();
  const orphaned = new Set<string>(); // jobs that a worker held when it was killed
  const jobs: { job: TestJob; kind: string; columns: number }[] = [];
  for (let i = 0; i < JOBS; i++) {
    const kind = oneOf(['prompt', 'picture', 'picture', 'prompt', 'picture', 'prompt', 'no picture', 'wrong']);
    const columns = 1 + Math.floor(2 * random());
    const taskId = randomUUID();
    const change: Record<string, unknown> = { num_cols: columns, T: 1 + Math.floor(4 * random()) };
    if (kind === 'wrong') change.steps = 0;
    if (kind.endsWith('picture')) {
      const key = `${taskFolder(taskId)}/upload`;
      await harness.bucket.put(key, kind === 'picture' ? harness.picture : 'words');
      Object.assign(change, { prompt: undefined, image_key: key });
    }
    const job = harness.submit(change, taskId);
    jobs.push({ job, kind, columns });
    const stage = oneOf(STAGES.filter((name) => columns > 1 || name !== 'encoding'));
    if (i % 10 === 4) events.set(job.id, { stage, event: 'SIGKILL' });
    else if (i % 20 === 10) events.set(job.id, { stage, event: 'SIGTERM' });
    else if (random() < 0.15) events.set(job.id, { stage, event: 'stop' });
  }

  let over = false;
  /** A worker at a time, until all jobs have ended. */
  async function keepWorking() {
    while (!over) {
      const worker = harness.startWorker({ WORKER_CONCURRENCY: '2' });
      let killed = false;
      worker.onStage((jobId, stage) => {
        const { stage: at, event } = events.get(jobId) ?? {};
        if (stage !== at || killed) return;
        events.delete(jobId);
        if (event === 'stop') return harness.cancel(jobs.find(({ job }) => job.id === jobId)!.job);
        if (event === 'SIGKILL') {
          killed = true;
          for (const { job } of jobs) if (harness.isHeldBy(job, worker)) orphaned.add(job.id);
        }
        worker.kill(event!);
      });
      const end = await harness.waitForExit(worker, 120 * SECOND);
      expect(end, worker.logTail()).toEqual(killed ? { code: null, signal: 'SIGKILL' } : { code: 0, signal: null });
    }
  }
  const lanes = [keepWorking(), keepWorking()];
  const ends = Promise.all(jobs.map(({ job }) => harness.waitForEnd(job, 120 * SECOND)));
  await Promise.race([ends, Promise.all(lanes)]); // a lane ends before that only by failing
  over = true;
  for (const worker of harness.workers.filter(({ isAlive }) => isAlive())) {
    await harness.waitForStopPoll(worker); // one that still starts does not handle signals yet
    worker.kill('SIGTERM');
  }
  await Promise.all(lanes);

  const seen = new Map<string, number>();
  for (const { job, kind, columns } of jobs) {
    const status = harness.statusOf(job);
    const code = status === 'FAILED' ? JSON.parse(harness.queue.find(job.id)!.error!).code : '';
    const what = `${kind}, ${columns}: ${status} ${code}`.trim();
    seen.set(what, (seen.get(what) ?? 0) + 1);
    await expectOneEnd(job, status);
    const wasOrphaned = orphaned.has(job.id);
    const may = {
      prompt: ['COMPLETED ', 'CANCELLED ', ...(wasOrphaned ? ['FAILED lost'] : [])],
      picture: ['COMPLETED ', 'CANCELLED '],
      'no picture': ['FAILED image_rejected', 'CANCELLED '],
      wrong: ['FAILED invalid_input'],
    }[kind];
    expect(may, what).toContain(`${status} ${code}`);
    expect(harness.paymentsOf(job.taskId), what).toBeLessThanOrEqual(kind === 'prompt' ? 1 : 0);

    const result =
      kind === 'no picture'
        ? ['result.json']
        : [...(columns > 1 ? ['job/grid.mp4'] : []), ...videoFiles(columns), 'result.json'];
    const left = (await harness.objects(job)).filter((name) => !PROMPT_FILES.includes(name) && name !== 'upload');
    if (status === 'COMPLETED' || code === 'image_rejected') expect(left, what).toEqual(result);
    else if (!wasOrphaned) expect([[], result], what).toContainEqual(left); // otherwise the dead worker's, until the task is deleted
  }
  expect(events.size, 'events that did not happen').toBeLessThan(JOBS / 4);
  await expectNoLeftovers();
  if (process.env.FAULTS_JOBS) console.log(Object.fromEntries(seen));
}, 180_000);
