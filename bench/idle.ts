/**
 * `npm run bench -- idle`: how long the GPU has nothing to do while a worker makes prompts into clips, with one job at a time and with
 * two. The worker's runtime and pipeline, the queue and the bridge are the ones that run locally. Sampling is a wait of a steady length,
 * because the measure is what goes on next to it.
 */
import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Hono } from 'hono';
import { diskBucket } from '../core/bucket/disk.ts';
import { parseRequest } from '../core/request.ts';
import { SECOND } from '../core/time.ts';
import { camera } from '../handler/models/camera.ts';
import type { Model } from '../handler/models/model.ts';
import { runJob, type Worker } from '../handler/pipeline.ts';
import { serve } from '../handler/runpod/index.ts';
import { tnl } from '../handler/still/bridges/tnl.ts';
import { tnlServer } from '../infra/simulators/bridges/tnl.ts';
import { numberFlags } from './measure.ts';
import { openQueue, runAll } from './queue.ts';
import { type Report, row } from './report.ts';

/** Seconds that the bridge takes for a still, and that a clip samples. */
const { jobs, still, clip } = numberFlags({ jobs: 10, still: 5, clip: 6 });

/** When a clip was on the GPU, by performance.now(). */
type Span = Record<'from' | 'to', number>;

export async function run(): Promise<Report> {
  const single = await measure(1);
  const double = await measure(2);
  return {
    how: `GPU: ${jobs} prompts, a bridge of ${still} s, sampling is a wait of ${clip} s; busy while a clip is opened, sampled and decoded.`,
    rows: [
      row('GPU idle, one job at a time', '%', [{ ours: single.idle }]),
      row('GPU idle, two at a time', '%', [{ ours: double.idle }], { aim: { of: 'ours', most: 5 } }),
      row('all prompts, two at a time', 's', [{ ours: double.seconds, theirs: single.seconds }], { peer: 'one' }),
    ],
  };
}

/** @returns per cent of the time between the first clip's start and the last one's end, and the seconds of all jobs */
async function measure(concurrency: number): Promise<{ idle: number; seconds: number }> {
  const apiKey = 'a key';
  const bridge = tnlServer({ apiKey, duration: still * SECOND });
  const { queue, url, env, close } = await openQueue(new Hono().route('/bridge/v2', bridge.app));
  const folder = await mkdtemp(join(tmpdir(), 'bench-'));
  const spans: Span[] = [];
  const worker: Worker = {
    modelName: 'camera',
    model: steadyCamera(spans),
    bucket: await diskBucket(folder, { publicUrl: '' }),
    bridges: [tnl({ apiKey, baseUrl: `${url}/bridge/v2` })],
    allowPrivate: false,
    stillTimeout: (still + 60) * SECOND,
    framesDir: undefined,
  };
  const stopping = new AbortController();
  const serving = serve(
    ({ id, input }, { progress, signal }) => runJob(input, worker, { jobId: id, progress, signal }),
    { concurrency, env, argv: [], log: () => {}, signal: stopping.signal }, // this process's flags and output are not its own
  );
  try {
    const limits = { maxFrames: 100, maxFps: 120 };
    const inputs = Array.from({ length: jobs }, (_, seed) => {
      const values = { prompt: `a lighthouse, ${seed}`, H: 128, W: 192 }; // small, so that the wait is what takes time
      const { input } = parseRequest(values, { limits, model: 'camera', hasImage: false, seed });
      return { ...input, task_id: randomUUID(), model: 'camera' };
    });
    const done = await runAll(queue, inputs);
    const whole = spans.at(-1)!.to - spans[0]!.from;
    const busy = spans.reduce((sum, { from, to }) => sum + to - from, 0);
    if (spans.some(({ from }, i) => i > 0 && from < spans[i - 1]!.to))
      throw new Error('two clips were on the GPU at once');
    const seconds = (Math.max(...done.map(({ ended }) => ended)) - done[0]!.created) / SECOND;
    return { idle: 100 * (1 - busy / whole), seconds };
  } finally {
    stopping.abort();
    await serving;
    await close();
    await rm(folder, { recursive: true });
  }
}

/** The camera, whose sampling always takes the same time. Adds each clip's time on the GPU to `spans`, in order. */
function steadyCamera(spans: Span[]): Model {
  return {
    ...camera,
    async open(request) {
      const from = performance.now();
      const opened = await camera.open(request);
      const pause = (clip * SECOND) / request.steps;
      return {
        ...opened,
        async denoise(x, sigma, conditional, step) {
          if (conditional) await delay(pause, undefined, { signal: request.signal }); // once a step
          return opened.denoise(x, sigma, conditional, step);
        },
        async *decode(x) {
          yield* opened.decode(x);
          spans.push({ from, to: performance.now() });
        },
      };
    },
  };
}
