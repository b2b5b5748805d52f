import { execFile } from 'node:child_process';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import sharp from 'sharp';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { type Bucket, StorageError } from '../core/bucket/bucket.ts';
import { diskBucket } from '../core/bucket/disk.ts';
import { JobError, type JobOutput, type Progress } from '../core/job.ts';
import type { Log } from '../core/log.ts';
import { startBridge } from '../test/support/test-bridge.ts';
import { camera } from './models/camera.ts';
import type { Clip, Model } from './models/model.ts';
import { runJob, type Worker } from './pipeline.ts';
import { createStageTimer } from './stage-timer.ts';
import type { Bridge } from './still/bridges/bridge.ts';
import { readMp4 } from './video/mp4.ts';

const TASK = '01a206ec-8c81-72d2-88c2-373f04644e4a';
let folder: string;
let bucket: Bucket;
let worker: Worker;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'pipeline-'));
  bucket = await diskBucket(folder, { publicUrl: '' });
  const picture = sharp({ create: { width: 90, height: 70, channels: 3, background: '#484' } });
  await bucket.put(`tasks/${TASK}/upload`, await picture.png().toBuffer());
  worker = {
    modelName: 'camera',
    model: camera,
    bucket,
    bridges: [],
    allowPrivate: false,
    stillTimeout: 1000,
    framesDir: undefined,
  };
});
afterEach(() => rm(folder, { recursive: true }));

const input = {
  ...{
    task_id: TASK,
    model: 'camera',
    image_key: `tasks/${TASK}/upload`,
    H: 64,
    W: 64,
    T: 2,
    fps: 6,
    seed: 3,
    steps: 2,
  },
  ...{ cond_aug: 0.02, decoding_t: 2, motion_bucket_id: 127, num_cols: 1, image_index: 1, fit: 'cover' },
  ...{ sampler: 'DPMPP2MSampler', discretization: 'LegacyDDPMDiscretization', guider: 'IdentityGuider' },
};
const run = (
  more: object = {},
  jobId = 'job-1',
  signal = new AbortController().signal,
  progress: (p: Progress) => void = () => {},
) => runJob({ ...input, ...more }, worker, { jobId, progress, signal });
/** What a job with `num_cols: 2` makes. */
const MADE_OF_TWO = ['grid.mp4', ...[1, 2].flatMap((n) => ['jpg', 'mp4', 'webp'].map((type) => `video-${n}.${type}`))];
const files = async () => (await readdir(join(folder, `objects/tasks/${TASK}`), { recursive: true })).sort();

test('a clip that never fits is refused before the bridge is paid', async () => {
  const untouchable = new Proxy({} as Bridge, { get: (_, name) => expect.fail(`the bridge’s ${String(name)}`) });
  const refusal = new JobError('out_of_memory', 'too large');
  const check = () => {
    throw refusal;
  };
  worker = { ...worker, bridges: [untouchable], model: { ...camera, check } };
  await expect(run({ prompt: 'a cat', image_key: undefined })).rejects.toMatchObject({ data: refusal.data });
  expect(await files()).not.toContain('imagine.json');
});

describe('a job without W or H', () => {
  const OPEN = { H: undefined, W: undefined, aspect_ratio: 'auto' };
  const sha256 = ({ videos }: JobOutput) => videos[0]!.sha256;

  test('gets them from the picture; every report from then on has the size', async () => {
    const checked: object[] = [];
    worker = { ...worker, model: { ...camera, check: ({ H, W }) => void checked.push({ H, W }) } };
    const said: Progress[] = [];
    const output = await run(OPEN, 'job-1', undefined, (progress) => said.push(progress)); // of a picture of 90×70
    const size = { H: 576, W: 704 };
    expect(output.videos).toMatchObject([{ width: size.W, height: size.H }]);
    for await (const { width, height } of readMp4(join(folder, `objects/${output.videos[0]!.key}`)))
      expect({ H: height, W: width }).toEqual(size);
    expect(checked).toEqual([size]);
    for (const { stage, size: reported } of said) expect(reported, stage).toEqual(stage === 'still' ? undefined : size);
  });

  test('keeps the side that it has, and gives the same bytes as with both', async () => {
    const open = await run({ ...OPEN, W: 64 });
    expect(open.videos).toMatchObject([{ width: 64, height: 64 }]);
    await bucket.delete(`tasks/${TASK}/result.json`);
    const closed = await run({}, 'job-2');
    expect(sha256(closed)).toBe(sha256(open));
  });

  test('is refused without aspect_ratio or with a prompt, and so is one with all three', async () => {
    for (const wrong of [{ H: undefined }, { ...OPEN, prompt: 'x', image_key: undefined }, { aspect_ratio: 'auto' }])
      await expect(run(wrong)).rejects.toMatchObject({ code: 'invalid_input', message: /needs W and H/ });
  });
});

test('twenty workers that finish one task at once leave one result and one set of files, and all answer the same', async () => {
  const jobs = Array.from({ length: 20 }, (_, i) => run({ num_cols: 2 }, `job-${i % 15}`)); // five of them run at two workers
  const outputs = await Promise.all(jobs);
  const { timings_ms: _, ...first } = outputs[0]!;
  for (const output of outputs) expect(output).toMatchObject(first);
  const winner = outputs[0]!.videos[0]!.key.split('/')[2]!;
  const made = MADE_OF_TWO.map((name) => `${winner}/${name}`);
  expect(await files()).toEqual([winner, ...made, 'result.json', 'still.jpg', 'still.png', 'upload'].sort());
}, 60_000);

test('a video is uploaded while the next one is made', async () => {
  const order: string[] = [];
  const slow: Bucket = {
    ...bucket,
    async put(key, body) {
      if (key.endsWith('video-1.mp4')) await vi.waitUntil(() => order.includes('second'), { interval: 5 });
      order.push(key.split('/').at(-1)!);
      return bucket.put(key, body);
    },
  };
  let opened = 0;
  const open: Model['open'] = async (request) => {
    if (++opened === 2) order.push('second');
    return camera.open(request);
  };
  worker = { ...worker, bucket: slow, model: { ...camera, open } };
  expect((await run({ num_cols: 2 })).videos.map(({ seed }) => seed)).toEqual([3, 4]);
  expect(order.indexOf('second')).toBeLessThan(order.indexOf('video-1.mp4'));
});

describe('several jobs at once', () => {
  const tasks = [1, 2, 3].map((n) => TASK.replace(/.$/, String(n)));
  let events: string[];
  /** Jobs 1 to 3 of different tasks. Records when their stages begin and end, which a test can await. */
  const begin = (n: number, signal = never, more: object = {}) => {
    const note = (verb: string) => (details: unknown) =>
      events.push(`${n} ${(details as { stage: string }).stage} ${verb}`);
    const log = { debug: note('begins'), info: note('ends') } as unknown as Log;
    const raw = { ...input, seed: n, task_id: tasks[n - 1]!, image_key: `tasks/${tasks[n - 1]}/upload`, ...more };
    const running = runJob(raw, worker, { jobId: `job-${n}`, progress: () => {}, signal, log });
    running.catch(() => {}); // awaited later
    return running;
  };
  const never = new AbortController().signal;
  const seen = (event: string) => vi.waitUntil(() => events.includes(event), { interval: 2 });

  /** The camera, which records when a job's clip is opened and its last frame decoded, and samples once `ready` resolves. */
  const watched = (ready: (seed: number) => Promise<unknown> = async () => {}): Model => ({
    ...camera,
    async open(request) {
      const { seed } = request as unknown as { seed: number };
      events.push(`${seed} opened`);
      const clip = await camera.open(request);
      return {
        ...clip,
        async denoise(...given) {
          await ready(seed);
          return clip.denoise(...given);
        },
        async *decode(x) {
          yield* clip.decode(x);
          events.push(`${seed} decoded`);
        },
      };
    },
  });

  beforeEach(async () => {
    events = [];
    const png = (await bucket.get(`tasks/${TASK}/upload`))!;
    for (const task of tasks) await bucket.put(`tasks/${task}/upload`, png);
  });

  test('one clip is made at a time, each whole, in the order of requests', async () => {
    const allAsk = () => Promise.all([1, 2, 3].map((n) => seen(`${n} waiting begins`)));
    worker = { ...worker, model: watched(allAsk) }; // the first clip lasts until the others wait
    await Promise.all([1, 2, 3].map((n) => begin(n, never, { num_cols: 2 })));
    const clips = events.filter((event) => /opened|decoded/.test(event));
    expect(clips).toHaveLength(12);
    for (let i = 0; i < clips.length; i += 2) {
      expect([clips[i], clips[i + 1]]).toEqual(['opened', 'decoded'].map((verb) => `${clips[i]![0]} ${verb}`));
    }
    expect(new Set(clips.slice(0, 6).map((event) => event[0]))).toEqual(new Set('123')); // all first videos are made before any second one
  });

  test('one job waits for the bridge while another samples', async () => {
    const bridge: Bridge = {
      name: 'tnl',
      pollInterval: 1,
      count: 4,
      answerTimeout: 1000,
      writePrompt: (prompt) => prompt,
      trusts: () => true,
      async imagine() {
        await seen('1 sampling begins');
        return 'an id';
      },
      async getStatus() {
        events.push('the bridge was asked');
        throw new JobError('banned_prompt', 'no');
      },
    };
    worker = {
      ...{ ...worker, bridges: [bridge], stillTimeout: 10_000 },
      model: watched(() => seen('the bridge was asked')),
    };
    const first = begin(1);
    await expect(begin(2, never, { prompt: 'a cat', image_key: undefined })).rejects.toMatchObject({
      code: 'banned_prompt',
    });
    expect((await first).videos).toHaveLength(1);
  });

  test('the next clip is opened while the encoder still works and files are uploaded', async () => {
    const put: Bucket['put'] = async (key, body) => {
      if (key.includes('job-1')) await seen('2 decoded');
      return bucket.put(key, body);
    };
    worker = { ...worker, bucket: { ...bucket, put }, model: watched(() => seen('2 waiting begins')) };
    const first = begin(1);
    await seen('1 opened');
    await Promise.all([first, begin(2)]);
    expect(events.indexOf('2 opened')).toBeGreaterThan(events.indexOf('1 decoded'));
    expect(events.indexOf('2 opened')).toBeLessThan(events.indexOf('1 decoding ends'));
  });

  test('an aborted job leaves the queue at once; those behind it wait for the clip that is open', async () => {
    const controller = new AbortController();
    const reason = new Error('stopped');
    worker = { ...worker, model: watched((seed) => (seed === 1 ? seen('go on') : Promise.resolve())) };
    const first = begin(1);
    await seen('1 sampling begins');
    const second = begin(2, controller.signal);
    await seen('2 waiting begins');
    const third = begin(3);
    await seen('3 waiting begins');
    controller.abort(reason);
    await expect(second).rejects.toBe(reason);
    expect(events).not.toContain('3 opened');
    events.push('go on');
    expect((await Promise.all([first, third])).map(({ videos }) => videos.length)).toEqual([1, 1]);
    expect(events).not.toContain('2 opened');
  });

  test('a job whose clip can’t be opened or sampled releases the GPU', async () => {
    const model = watched();
    const failing: Model = {
      ...model,
      open: async (request) => {
        const clip = await model.open(request);
        if (events.includes('2 opened')) return clip;
        throw new JobError('out_of_memory', 'too large');
      },
    };
    worker = { ...worker, model: failing };
    await expect(begin(1)).rejects.toMatchObject({ code: 'out_of_memory' });
    const overflow = { discretization: 'EDMDiscretization', sigma_min: 1e-3, sigma_max: 1e29, rho: 1 };
    const guider = { guider: 'VanillaCFG', cfg_scale: 1e300 };
    await expect(begin(2, never, { ...overflow, ...guider })).rejects.toMatchObject({ code: 'invalid_input' });
    expect((await begin(3)).videos).toHaveLength(1);
  });
});

test('a bucket that stays unavailable makes the job fail as retryable, and its message stays in the log', async () => {
  const lost = new StorageError('https://store.example.com can’t be reached', 'ECONNREFUSED', 3);
  const put: Bucket['put'] = async (key, body) => {
    if (!key.endsWith('.mp4')) return bucket.put(key, body);
    throw lost;
  };
  worker = { ...worker, bucket: { ...bucket, put } };
  const error = await run({ num_cols: 3 }).catch((error) => error);
  expect(error).toMatchObject({ code: 'storage_error', cause: lost, data: { retryable: true } });
  expect(error.message).not.toContain('store.example.com');
  expect(await files()).toEqual(['still.jpg', 'still.png', 'upload']);
});

test('a full disk of the worker makes the job fail as retryable', async () => {
  const full = Object.assign(new Error('ENOSPC: no space left on device, mkdir'), { code: 'ENOSPC' });
  worker = { ...worker, model: { ...camera, open: () => Promise.reject(full) } };
  await expect(run()).rejects.toMatchObject({ code: 'storage_error', cause: full, data: { retryable: true } });
});

test('a video whose end can’t be written is an error, although FFmpeg’s writer reports none', async () => {
  const program = `
    import { writeMp4 } from './handler/video/mp4.ts';
    async function* frames() {
      for (let t = 0; t < 8; t++) yield new Uint8Array(64 * 64 * 3).map((_, i) => (i * i * t) % 251);
    }
    const options = { width: 64, height: 64, fps: 6, metadata: {} };
    await writeMp4(process.argv[1], frames(), options).then(() => console.log('written'), ({ code }) => console.log(code));`;
  const node = [process.execPath, '--import', 'tsx', '--input-type=module', '-e', program, join(folder, 'video.mp4')];
  const { stdout } = await promisify(execFile)('/bin/sh', ['-c', 'ulimit -f 1; exec "$@"', 'sh', ...node]); // 1 block a file
  expect(stdout).toBe('ENOSPC\n');
});

test('the output contains each of the model’s warnings once', async () => {
  const warnings = [{ field: 'decoding_t', message: 'memory is enough to decode 1 frame at a time, not 2' }];
  worker = {
    ...worker,
    model: { ...camera, open: async (request) => ({ ...(await camera.open(request)), warnings }) },
  };
  expect((await run({ num_cols: 2 })).warnings).toEqual(warnings);
});

test('the output says how many pictures were drawn, and which flags were ignored, also when the still exists already', async () => {
  const { bridge, close, paid } = await startBridge('openai', { count: 2 });
  worker = { ...worker, bridges: [bridge], stillTimeout: 15_000 };
  const job = { prompt: 'a cat --stylize 9', image_key: undefined, image_index: 2 };
  const expected = { pictures: 2, warnings: [{ field: 'prompt', message: expect.stringMatching(/: --stylize$/) }] };
  expect(await run(job)).toMatchObject(expected);
  await bucket.delete(`tasks/${TASK}/result.json`); // as if the worker had died before it
  expect(await run(job, 'job-2')).toMatchObject(expected);
  expect(paid()).toBe(1);
  await close();
});

test('a job reports what it uses of the GPU: from the first step on, and also when it fails', async () => {
  const said: Progress[] = [];
  const timer = createStageTimer();
  const fail = vi.spyOn(bucket, 'put').mockImplementation(async (key) => {
    if (key.endsWith('.mp4')) throw new StorageError('away', 'ECONNREFUSED', 1);
  });
  const context = { jobId: 'job-1', progress: (p: Progress) => said.push(p), signal: new AbortController().signal };
  await expect(runJob(input, worker, { ...context, timer })).rejects.toThrow(/bucket/);
  fail.mockRestore();
  const usage = timer.usage();
  expect(usage.gpu_ms).toBe(timer.timings_ms.sampling! + timer.timings_ms.decoding!);
  expect(usage).not.toHaveProperty('gpu_since');
  const first = said.find(({ stage }) => stage === 'sampling')!;
  expect(first).toMatchObject({ step: 0, usage: { started_at: usage.started_at, gpu_ms: 0 } });
  expect(first.usage!.gpu_since).toBeGreaterThanOrEqual(usage.started_at!);
  for (const { stage, usage } of said)
    if (!['sampling', 'decoding'].includes(stage)) expect(usage).not.toHaveProperty('gpu_since');
});

test('a job leaves its files, the still and the result, and reports progress', async () => {
  const said: Progress[] = [];
  const output = await run({ num_cols: 2 }, 'job-1', undefined, (progress) => said.push(progress));
  expect(await files()).toEqual([
    'job-1',
    ...MADE_OF_TWO.map((name) => `job-1/${name}`),
    'result.json',
    'still.jpg',
    'still.png',
    'upload',
  ]);
  const folder = `tasks/${TASK}/job-1`;
  expect(output.videos.map(({ key, poster, preview, seed }) => [key, poster, preview, seed])).toEqual(
    [1, 2].map((n) => [...['mp4', 'jpg', 'webp'].map((type) => `${folder}/video-${n}.${type}`), 2 + n]),
  );
  expect(output.still_preview).toBe(`tasks/${TASK}/still.jpg`);
  for (const { still, still_preview } of said) expect(still === undefined).toBe(still_preview === undefined);
  const parts = said.map(({ progress }) => progress);
  expect(parts).toEqual(parts.toSorted((a, b) => a - b));
  expect(new Set(said.map(({ stage }) => stage))).toEqual(
    new Set(['still', 'loading', 'sampling', 'decoding', 'uploading', 'encoding']),
  );
  expect(Object.keys(output.timings_ms).sort()).toEqual([
    'decoding',
    'encoding',
    'loading',
    'sampling',
    'still',
    'uploading',
    'waiting',
  ]);
});

describe('a second job of the same task', () => {
  test('answers from the result of the first, without any work', async () => {
    const first = await run();
    expect(await run({}, 'job-2')).toEqual(first);
    expect(await files()).not.toContain('job-2');
  });

  test('that runs at the same time leaves one result and one set of files, and answers the same', async () => {
    const [a, b, c] = await Promise.all([run({}, 'job-1'), run({}, 'job-2'), run({}, 'job-3')]);
    expect(b).toEqual(a);
    expect(c).toEqual(a);
    expect((await files()).filter((name) => name.endsWith('.mp4'))).toHaveLength(1);
    expect(await bucket.has(a!.videos[0]!.key)).toBe(true);
  });

  test('or the same job at two workers keeps the winner’s files', async () => {
    const [a, b] = await Promise.all([run(), run()]);
    expect(b).toEqual(a);
    expect(await bucket.has(a!.videos[0]!.key)).toBe(true);
    const controller = new AbortController();
    controller.abort(new Error('stopped'));
    await bucket.delete(`tasks/${TASK}/still.png`);
    expect(await run({}, 'job-1', controller.signal)).toEqual(a); // finished already
  });

  test('that fails after the first has ended answers the same', async () => {
    const put: Bucket['put'] = async (key, body) => {
      if (!key.includes('job-1')) return bucket.put(key, body);
      await run({}, 'job-2');
      throw new Error('its folder was deleted under its hands');
    };
    worker = { ...worker, bucket: { ...bucket, put } };
    const late = await run({}, 'job-1');
    expect(late).toEqual(await run({}, 'job-2'));
    expect(late.videos[0]!.key).toContain('job-2');
  });

  test('repeats an error that is final, and runs again after one that is retryable', async () => {
    await bucket.put(`tasks/${TASK}/upload`, 'no picture');
    const error = await run().catch((caught) => caught);
    expect(error).toMatchObject({ code: 'image_rejected' });
    await bucket.put(
      `tasks/${TASK}/upload`,
      await sharp({ create: { width: 9, height: 9, channels: 3, background: '#000' } })
        .png()
        .toBuffer(),
    );
    await expect(run({}, 'job-2')).rejects.toMatchObject({ code: 'image_rejected', message: error.message });
    expect(await files()).toEqual(['result.json', 'upload']);
  });
});

test('an aborted job leaves no files and no result', async () => {
  const controller = new AbortController();
  const reason = new Error('stopped');
  const stopAtDecoding = ({ stage }: Progress) => stage === 'decoding' && controller.abort(reason);
  await expect(run({ num_cols: 3, T: 5 }, 'job-1', controller.signal, stopAtDecoding)).rejects.toBe(reason);
  expect(await files()).toEqual(['still.jpg', 'still.png', 'upload']);
  expect((await run({}, 'job-2')).videos).toHaveLength(1);
});

test('a job that is aborted while its last file is uploaded leaves no files either', async () => {
  const controller = new AbortController();
  const reason = new Error('stopped');
  const put: Bucket['put'] = async (key, body) => {
    if (key.endsWith('grid.mp4')) controller.abort(reason);
    return bucket.put(key, body);
  };
  worker = { ...worker, bucket: { ...bucket, put } };
  await expect(run({ num_cols: 2 }, 'job-1', controller.signal)).rejects.toBe(reason);
  expect(await files()).toEqual(['still.jpg', 'still.png', 'upload']);
});

describe('workers that were killed', () => {
  const mark = (place: number, jobId: string, ago: number) =>
    bucket.put(
      `tasks/${TASK}/attempt-${place}.json`,
      JSON.stringify({ attempt: `attempt ${place}`, job: jobId, alive_at: Date.now() - ago }),
    );
  /** Writes what a worker leaves that died on a task, that many milliseconds ago. */
  async function death(place: number, jobId: string, ago: number) {
    await mark(place, jobId, ago);
    await bucket.put(`tasks/${TASK}/${jobId}/video-1.mp4`, 'half the work');
  }
  const MINUTE = 60_000;
  const ofVideo = ['jpg', 'mp4', 'webp'].map((type) => `job-2/video-1.${type}`);
  const ofResult = ['job-2', ...ofVideo, 'result.json', 'still.jpg', 'still.png', 'upload'];

  test('long ago leave nothing once the task has a result', async () => {
    await death(1, 'job-0', 3 * MINUTE);
    await death(2, 'job-1', 3 * MINUTE);
    await run({}, 'job-2');
    expect(await files()).toEqual(ofResult);
  });

  test('a moment ago at the same job have their files written again', async () => {
    await death(1, 'job-2', 0);
    const [video] = (await run({}, 'job-2')).videos;
    expect(await files()).toEqual(ofResult);
    expect(await bucket.get(video!.key)).toHaveLength(video!.bytes);
  });

  test('a moment ago at another job leave nothing once the task has a result', async () => {
    await death(1, 'job-1', 0);
    await run({}, 'job-2');
    expect(await files()).toEqual(ofResult);
  });

  test('at a job that was not the first to end have their files deleted by its next worker', async () => {
    const first = await run({}, 'job-2');
    await bucket.put(`tasks/${TASK}/job-1/video-1.mp4`, 'half the work'); // its slot was freed with the result
    expect(await run({}, 'job-1')).toEqual(first);
    expect(await files()).toEqual(ofResult);
  });

  test('between the result and the cleanup have their files deleted by the next job', async () => {
    const first = await run({}, 'job-2');
    await death(1, 'job-1', 3 * MINUTE);
    await mark(2, 'job-2', 3 * MINUTE); // of the worker that created the result
    expect(await run({}, 'job-2')).toEqual(first);
    expect(await files()).toEqual(ofResult);
  });

  test('three times make the error the result, and free the slots', async () => {
    for (const place of [1, 2, 3]) await death(place, 'job-1', 3 * MINUTE);
    await expect(run({}, 'job-2')).rejects.toMatchObject({ code: 'out_of_memory' });
    expect(await files()).toEqual(['result.json', 'upload']);
    await expect(run({}, 'job-3')).rejects.toMatchObject({ code: 'out_of_memory' });
  });
});

test('outside of the guidance interval the network runs once a step', async () => {
  const runs: [sigma: number, conditional: boolean][] = [];
  const open: Model['open'] = async (request) => {
    const clip = await camera.open(request);
    const denoise: Clip['denoise'] = (x, sigma, conditional, step) => {
      runs.push([sigma, conditional]);
      return clip.denoise(x, sigma, conditional, step);
    };
    return { ...clip, denoise };
  };
  worker = { ...worker, model: { ...camera, open } };
  const levels = { discretization: 'AlignYourStepsDiscretization', steps: 5 };
  const interval = { guidance_sigma_min: 0.5, guidance_sigma_max: 4.248 };
  await run({ ...levels, guider: 'VanillaCFG', cfg_scale: 3, ...interval });
  expect(runs.filter(([, conditional]) => conditional)).toHaveLength(5);
  expect(runs.filter(([, conditional]) => !conditional)).toEqual([
    [4.248, false],
    [0.981, false],
  ]);
});

test('numbers with which sampling overflows are invalid_input', async () => {
  const numbers = {
    discretization: 'EDMDiscretization',
    sigma_min: 1e-3,
    sigma_max: 1e29,
    rho: 1,
    guider: 'VanillaCFG',
    cfg_scale: 1e300,
  };
  await expect(run(numbers)).rejects.toMatchObject({
    code: 'invalid_input',
    message: expect.stringContaining('overflows'),
  });
});

describe('an invalid job', () => {
  const other = '01a206ec-8c81-72d2-88c2-373f04644e4b';
  test.each<[string, object]>([
    ['another model', { model: 'svd' }],
    ['no source', { image_key: undefined }],
    ['two sources', { prompt: 'x' }],
    ['another task’s picture', { image_key: `tasks/${other}/upload` }],
    ['a key that leads elsewhere', { image_key: undefined, still_key: `tasks/${other}/../../secret.png` }],
    ['a still that is no picture', { image_key: undefined, still_key: `tasks/${other}/result.json` }],
    ['an id that is a path', { task_id: '../../etc' }],
    ['an unknown field', { webhook_url: 'https://example.com' }],
    ['a sampler without its numbers', { sampler: 'LinearMultistepSampler' }],
    ['no number', { steps: 'many' }],
    ['a prompt that would cost more', { image_key: undefined, prompt: 'a cat --repeat 4' }],
    ['a prompt that is several', { image_key: undefined, prompt: 'a {red, green} cat' }],
  ])('%s: invalid_input, and nothing is written', async (_, change) => {
    const before = await files();
    const error = await run(change).catch((caught) => caught);
    expect(error).toBeInstanceOf(JobError);
    expect(error.code).toBe('invalid_input');
    expect(await files()).toEqual(before);
  });

  test('a prompt without a bridge is no_bridge', async () => {
    await expect(run({ image_key: undefined, prompt: 'x' })).rejects.toMatchObject({ code: 'no_bridge' });
  });
});
