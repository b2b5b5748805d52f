import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { STAGES, type Stage, taskFolder } from '../../core/job.ts';
import { SECOND } from '../../core/time.ts';
import { numbers } from '../soak/prng.ts';
import {
  after,
  answer,
  type Fault,
  type Job,
  json,
  openScene,
  reset,
  resetAfter,
  type Scene,
  type WorkerProcess,
} from './fault-injection.ts';

vi.setConfig({ testTimeout: 60 * SECOND }); // a process starts in one second, or in five where many others run

/**
 * Real worker processes against faulty far ends. Whatever happens to a worker or between it and RunPod, every job ends in exactly one
 * outcome, a result has exactly its files, and nothing is left lying about.
 */
let scene: Scene;
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'faults-'));
  scene = await openScene(folder);
});
afterAll(async () => {
  await scene?.close();
  await rm(folder, { recursive: true });
});
afterEach(() => {
  scene.control.fault = () => undefined;
});

/** The worker that lives, or a new one. */
const aWorker = () => scene.workers.find(({ isAlive }) => isAlive()) ?? scene.startWorker();

const OF_PROMPT = [1, 2, 3, 4].map((n) => `imagine-${n}.png`).concat('imagine.json', 'still.png');
const OF_RESULT = ['job/grid.mp4', 'job/video-1.mp4', 'job/video-2.mp4', 'result.json'];

/** What must be true of every job that has ended. */
async function expectOneEnd(job: Job, status: string) {
  expect(await scene.ended(job), scene.workers.at(-1)!.tail()).toBe(status);
  expect(job.ends).toEqual(status === 'CANCELLED' ? [] : [status]);
  expect(job.outcomes.filter(({ accepted }) => accepted)).toHaveLength(status === 'CANCELLED' ? 0 : 1);
  for (const [worker, bodies] of job.posted) expect(new Set(bodies).size, `${worker} repeats itself`).toBe(1);
  expect(scene.seen(job)).toBe(job.atEnd);
}

/** …and, of one with a prompt and two videos, that has succeeded. */
async function expectSuccess(job: Job) {
  await expectOneEnd(job, 'COMPLETED');
  expect(await scene.objects(job)).toEqual([...OF_PROMPT, ...OF_RESULT].sort());
  expect(scene.imagines(job)).toBe(1);
}

/** What must be true when no job is in hand and dead workers have been followed by another. */
async function expectNoLitter() {
  expect(await scene.litter()).toEqual([]);
  for (const worker of scene.workers.filter(({ isAlive }) => !isAlive()))
    await expect.poll(worker.hasRemains, { timeout: 5 * SECOND, message: worker.id }).toBe(false); // tsx's compiler ends a moment later
}

/**
 * Submits a job whose worker can't say a word about it, and so can't end it, until `release`; resolves when it has come to the stage.
 * In `still` it is held there: the bridge has been paid, and gives no answer.
 */
async function jobIn(stage: Stage, worker: WorkerProcess) {
  let release = () => {};
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  let looked = false;
  scene.control.fault = ({ operation, id }) => {
    if (operation === 'look' && stage === 'still') {
      looked = true;
      scene.changed();
      return after(() => released);
    }
    return (operation === 'progress' || operation === 'outcome') && id === job.id ? after(() => released) : undefined;
  };
  const job = scene.submit();
  await scene.until(
    () => worker.hasBegun(job, stage) && (stage !== 'still' || looked),
    `${worker.id} to begin ${stage}`,
  );
  return { job, release };
}

describe.each(STAGES)('in the stage %s', (stage) => {
  test('RunPod’s stop: nothing is posted, nothing of the job is left, and the worker goes on', async () => {
    const worker = aWorker();
    await scene.listens(worker);
    const { job, release } = await jobIn(stage, worker);
    scene.cancel(job);
    const next = scene.submit();
    await scene.hasStopped(worker, job);
    release();
    await expectSuccess(next);
    await expectOneEnd(job, 'CANCELLED');
    expect(job.posted.size).toBe(0);
    const left = (await scene.objects(job)).filter((name) => !OF_PROMPT.includes(name));
    expect([[], OF_RESULT]).toContainEqual(left); // the result, if that was there before the worker heard
    expect(scene.imagines(job)).toBe(1);
    expect(worker.isAlive()).toBe(true);
    await expectNoLitter();
  });

  test('kill -9: another worker takes the job and completes it, for one payment', async () => {
    const worker = aWorker();
    const { job, release } = await jobIn(stage, worker);
    worker.kill('SIGKILL');
    await scene.until(() => !worker.isAlive(), `${worker.id} to die`);
    release();
    expect(await worker.ended()).toMatchObject({ signal: 'SIGKILL' });
    expect(scene.statusOf(job)).toBe('IN_QUEUE');
    scene.startWorker();
    await expectSuccess(job);
    await expectNoLitter();
  });

  test('SIGTERM: the job is completed, no other is begun, and the process ends by itself', async () => {
    const worker = aWorker();
    const { job, release } = await jobIn(stage, worker);
    const waiting = scene.submit();
    worker.kill('SIGTERM');
    release();
    const since = performance.now();
    expect(await worker.ended()).toEqual({ code: 0, signal: null });
    expect(performance.now() - since).toBeLessThan(6 * SECOND); // no held poll is waited for
    await expectSuccess(job);
    expect(scene.statusOf(waiting)).toBe('IN_QUEUE');
    scene.cancel(waiting);
    await expectNoLitter();
  });
});

test('kill -9 while the bridge takes the prompt: nobody knows whether it was paid, and it is not asked again', async () => {
  const worker = aWorker();
  let killed = () => {};
  const dead = new Promise<void>((resolve) => {
    killed = resolve;
  });
  scene.control.fault = ({ operation }) => {
    if (operation === 'imagine') worker.kill('SIGKILL');
    return operation === 'imagine' ? after(() => dead) : undefined;
  };
  const job = scene.submit();
  await scene.until(() => !worker.isAlive(), `${worker.id} to die`);
  killed();
  await worker.ended();
  await scene.until(() => scene.imagines(job) > 0, 'the prompt to arrive');
  scene.startWorker();
  await expectOneEnd(job, 'FAILED');
  expect(JSON.parse(scene.queue.find(job.id)!.error!)).toMatchObject({ code: 'lost', retryable: true });
  expect(scene.imagines(job)).toBe(1);
  await expectNoLitter();
});

/** Each fault once, and between them true answers; then only those. */
function everyOther(faults: Fault[]): () => Fault | undefined {
  let asked = 0;
  return () => (asked++ % 2 === 0 ? faults.shift() : undefined);
}
/** The faults in turn; then true answers. */
const inTurn =
  (...faults: Fault[]) =>
  () =>
    faults.shift();

test('whatever RunPod answers, or does not, every job ends once', async () => {
  for (const worker of scene.workers.filter(({ isAlive }) => isAlive())) {
    worker.kill('SIGTERM');
    await worker.ended();
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
    json({ id: 'stranger-u1' }),
    json({ id: 'stranger-u2', input: null }),
    json({ id: 'stranger-u3', input: 'text' }),
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
  const jobs = outcomes.map(() => scene.submit());
  const broken = [{ steps: 'many' }, { model: 'svd' }, { task_id: '../../etc' }].map((change) => scene.submit(change));
  const unusable = [null, 'text', [], {}].map((input) => scene.submitAny(input));
  let release = () => {};
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  const stopped = scene.submit({ prompt: 'held' });
  scene.control.fault = ({ operation, id, body }) => {
    if (operation === 'take') return take();
    if (operation === 'stop') return stop();
    if (operation === 'ping') return ping();
    if (operation === 'imagine' && body.ref === stopped.taskId) return after(() => released);
    if (operation === 'progress') return progress();
    if (operation === 'outcome') return outcomes[jobs.findIndex((job) => job.id === id)]?.();
    return undefined;
  };
  const worker = scene.startWorker({ WORKER_CONCURRENCY: '2' });
  for (const job of jobs) await expectSuccess(job);
  for (const job of broken) {
    await expectOneEnd(job, 'FAILED');
    expect(JSON.parse(scene.queue.find(job.id)!.error!)).toMatchObject({ code: 'invalid_input' });
  }
  for (const job of unusable) await expectOneEnd(job, 'FAILED');
  expect(jobs[2]!.posted.get(worker.id)).toHaveLength(2); // the faults were met
  await scene.until(() => worker.hasBegun(stopped, 'still'), 'the job that will be stopped');
  scene.cancel(stopped);
  await scene.hasStopped(worker, stopped);
  release();
  await expectOneEnd(stopped, 'CANCELLED');
  while (takes.length > 0) await expectSuccess(scene.submit()); // every fault is met
  worker.kill('SIGTERM');
  expect(await worker.ended()).toEqual({ code: 0, signal: null });
  expect(stopped.posted.size).toBe(0);
  await expectNoLitter();
});

const SEED = Number(process.env.STORM_SEED ?? 23);
const JOBS = Number(process.env.STORM_JOBS ?? 40);

// The seed decides what befalls whom; what then happens first is up to the processes.
test(`all of it at random, with seed ${SEED}: every one of ${JOBS} jobs ends once`, async () => {
  const random = numbers(SEED);
  const oneOf = <T>(choices: readonly T[]) => choices[Math.floor(random() * choices.length)]!;
  const slow: Fault = (pass, c) => after(() => delay(200 * random()))(pass, c);
  const malformed = [json(null), json({ id: 'stranger-u1' }), json({ input: {} }), json([7]), answer(200, '{"id":')];
  const faults: Record<string, { share: number; of: Fault[] }> = {
    take: { share: 0.15, of: [answer(500), reset, slow, answer(400), ...malformed] },
    outcome: { share: 0.4, of: [answer(500), answer(503), answer(429), reset, resetAfter, slow] },
    progress: { share: 0.2, of: [answer(500), answer(429), reset, resetAfter, slow] },
    stop: { share: 0.2, of: [answer(500), reset, slow, answer(200, '{')] },
    ping: { share: 0.3, of: [answer(500), reset, slow] },
  };
  scene.control.fault = ({ operation }) => {
    const { share, of } = faults[operation] ?? { share: 0, of: [] };
    return random() < share ? oneOf(of) : undefined;
  };

  type Blow = 'SIGKILL' | 'SIGTERM' | 'stop';
  /** What befalls the worker, or the job itself, when the job comes to a stage. */
  const blows = new Map<string, { stage: Stage; blow: Blow }>();
  const struck = new Set<string>(); // jobs that a worker held when it was killed
  const jobs: { job: Job; kind: string; columns: number }[] = [];
  for (let i = 0; i < JOBS; i++) {
    const kind = oneOf(['prompt', 'picture', 'picture', 'prompt', 'picture', 'prompt', 'no picture', 'wrong']);
    const columns = 1 + Math.floor(2 * random());
    const taskId = randomUUID();
    const change: Record<string, unknown> = { num_cols: columns, T: 1 + Math.floor(4 * random()) };
    if (kind === 'wrong') change.steps = 0;
    if (kind.endsWith('picture')) {
      const key = `${taskFolder(taskId)}/upload`;
      await scene.bucket.put(key, kind === 'picture' ? scene.picture : 'words');
      Object.assign(change, { prompt: undefined, image_key: key });
    }
    const job = scene.submit(change, taskId);
    jobs.push({ job, kind, columns });
    const stage = oneOf(STAGES.filter((name) => columns > 1 || name !== 'encoding'));
    const [blow] =
      i % 10 === 4
        ? ['SIGKILL' as const]
        : i % 20 === 10
          ? ['SIGTERM' as const]
          : random() < 0.15
            ? ['stop' as const]
            : [];
    if (blow) blows.set(job.id, { stage, blow });
  }

  let over = false;
  /** A worker at a time, until all jobs have ended. */
  async function keepWorking() {
    while (!over) {
      const worker = scene.startWorker({ WORKER_CONCURRENCY: '2' });
      let killed = false;
      worker.onStage((jobId, stage) => {
        const { stage: at, blow } = blows.get(jobId) ?? {};
        if (stage !== at || killed) return;
        blows.delete(jobId);
        if (blow === 'stop') return scene.cancel(jobs.find(({ job }) => job.id === jobId)!.job);
        if (blow === 'SIGKILL') {
          killed = true;
          for (const { job } of jobs) if (scene.isHeldBy(job, worker)) struck.add(job.id);
        }
        worker.kill(blow!);
      });
      const end = await worker.ended(120 * SECOND);
      expect(end, worker.tail()).toEqual(killed ? { code: null, signal: 'SIGKILL' } : { code: 0, signal: null });
    }
  }
  const lanes = [keepWorking(), keepWorking()];
  const ends = Promise.all(jobs.map(({ job }) => scene.ended(job, 120 * SECOND)));
  await Promise.race([ends, Promise.all(lanes)]); // a lane ends before that only by failing
  over = true;
  for (const worker of scene.workers.filter(({ isAlive }) => isAlive())) {
    await scene.listens(worker); // one that still starts has no ear for signals
    worker.kill('SIGTERM');
  }
  await Promise.all(lanes);

  const seen = new Map<string, number>();
  for (const { job, kind, columns } of jobs) {
    const status = scene.statusOf(job);
    const code = status === 'FAILED' ? JSON.parse(scene.queue.find(job.id)!.error!).code : '';
    const what = `${kind}, ${columns}: ${status} ${code}`.trim();
    seen.set(what, (seen.get(what) ?? 0) + 1);
    await expectOneEnd(job, status);
    const wasStruck = struck.has(job.id);
    const may = {
      prompt: ['COMPLETED ', 'CANCELLED ', ...(wasStruck ? ['FAILED lost'] : [])],
      picture: ['COMPLETED ', 'CANCELLED '],
      'no picture': ['FAILED image_rejected', 'CANCELLED '],
      wrong: ['FAILED invalid_input'],
    }[kind];
    expect(may, what).toContain(`${status} ${code}`);
    expect(scene.imagines(job), what).toBeLessThanOrEqual(kind === 'prompt' ? 1 : 0);

    const videos = Array.from({ length: columns }, (_, i) => `job/video-${i + 1}.mp4`);
    const result =
      kind === 'no picture' ? ['result.json'] : [...(columns > 1 ? ['job/grid.mp4'] : []), ...videos, 'result.json'];
    const left = (await scene.objects(job)).filter((name) => !OF_PROMPT.includes(name) && name !== 'upload');
    if (status === 'COMPLETED' || code === 'image_rejected') expect(left, what).toEqual(result);
    else if (!wasStruck) expect([[], result], what).toContainEqual(left); // else its dead worker's, until the task is deleted
  }
  expect(blows.size, 'blows that met nobody').toBeLessThan(JOBS / 4);
  await expectNoLitter();
  if (process.env.STORM_JOBS) console.log(Object.fromEntries(seen));
}, 180_000);
