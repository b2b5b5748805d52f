import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { STAGES, type Stage, taskFolder } from '../../handler/job.ts';
import {
  type Asked,
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
} from './faulty.ts';

/**
 * Real worker processes against faulty far ends. Whatever happens to a worker or between it and RunPod, every job ends in exactly one
 * outcome, a result has exactly its files, and nothing is left lying about.
 */
let scene: Scene;
let folder: string;
const coffee = await readFile(new URL('../../assets/coffee.png', import.meta.url));

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
  expect(job.ends).toEqual([status]);
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
  for (const worker of scene.workers) if (!worker.isAlive()) expect(worker.hasRemains(), worker.id).toBe(false);
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
    expect(await worker.ended()).toEqual({ code: 0, signal: null });
    await expectSuccess(job);
    expect(scene.statusOf(waiting)).toBe('IN_QUEUE');
    scene.cancel(waiting);
    await expectNoLitter();
  });
});
