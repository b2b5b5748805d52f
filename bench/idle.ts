/**
 * `npm run bench -- idle`: how long the GPU has nothing to do while a worker makes prompts into clips, with one job in hand and with
 * several. The worker's runtime and pipeline, the queue and the bridge are the ones that run locally; only sampling is a wait, of a
 * steady length, for what is measured is what goes on beside it.
 */
import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Hono } from 'hono';
import { diskBucket } from '../core/bucket/disk.ts';
import { parseRequest } from '../core/request.ts';
import { camera } from '../handler/models/camera.ts';
import type { Model } from '../handler/models/model.ts';
import { runJob, type Worker } from '../handler/pipeline.ts';
import { serve } from '../handler/runpod/index.ts';
import { tnl } from '../handler/still/midjourney/tnl.ts';
import { tnlServer } from '../infra/simulators/bridges/tnl.ts';
import { readFlags } from './flags.ts';
import { openQueue, runAll } from './queue.ts';
import { type Row, row, tell } from './report.ts';

const flags = readFlags({
  jobs: { type: 'string', default: '10' },
  /** how many in hand; a run for each, compared with the first */
  concurrency: { type: 'string', default: '1,2' },
  /** seconds that the bridge takes for a still */
  still: { type: 'string', default: '5' },
  /** seconds that a clip samples */
  clip: { type: 'string', default: '6' },
  /** of both times, for a quick look; what the pipeline itself takes stays as it is and weighs more */
  scale: { type: 'string', default: '1' },
});
const jobs = Number(flags.jobs);
const still = 1000 * Number(flags.still) * Number(flags.scale);
const clip = 1000 * Number(flags.clip) * Number(flags.scale);

interface Span {
  from: number;
  to: number;
}

const rows: Row[] = [];
let first: number | undefined;
for (const concurrency of flags.concurrency.split(',').map(Number)) {
  const { spans, took } = await measure(concurrency);
  const whole = Math.max(...spans.map(({ to }) => to)) - Math.min(...spans.map(({ from }) => from));
  const { busy, most } = union(spans);
  if (most > 1) throw new Error(`${most} clips were on the GPU at once`);
  const pair = { ours: took / 1000, ...(first !== undefined && { theirs: first }) };
  first ??= took / 1000;
  rows.push(
    row(`GPU idle, ${concurrency} in hand`, '%', [{ ours: 100 * (1 - busy / whole) }], {
      ...(concurrency === 2 && { aim: { of: 'ours', most: 5 } }),
    }),
    row(`all prompts, ${concurrency} in hand`, 's', [pair], { peer: 'the first' }),
  );
}
tell(
  `GPU: ${jobs} prompts, a bridge of ${still / 1000} s, sampling is a wait of ${clip / 1000} s; busy while a clip is opened, sampled and decoded.`,
  rows,
);
process.exit(0);

async function measure(concurrency: number): Promise<{ spans: Span[]; took: number }> {
  const apiKey = 'a key';
  const bridge = tnlServer({ apiKey, duration: still });
  const { queue, url, env, close } = await openQueue(new Hono().route('/bridge/v2', bridge.app));
  const folder = await mkdtemp(join(tmpdir(), 'bench-'));
  const spans: Span[] = [];
  const worker: Worker = {
    modelName: 'camera',
    model: steady(spans),
    bucket: await diskBucket(folder, { publicUrl: '' }),
    bridges: [tnl({ apiKey, baseUrl: `${url}/bridge/v2` })],
    allowPrivate: false,
    stillTimeout: still + 60_000,
    framesDir: undefined,
  };
  const over = new AbortController();
  const serving = serve(
    ({ id, input }, { progress, signal }) => runJob(input, worker, { jobId: id, progress, signal }),
    { concurrency, env, argv: [], log: () => {}, signal: over.signal }, // this command's line and output are its own
  );
  try {
    const limits = { maxFrames: 100, maxFps: 120 };
    const inputs = Array.from({ length: jobs }, (_, seed) => {
      const values = { prompt: `a lighthouse, ${seed}`, H: 128, W: 192 }; // small, so that the wait is what takes time
      const { input } = parseRequest(values, { limits, model: 'camera', hasImage: false, seed });
      return { ...input, task_id: randomUUID(), model: 'camera' };
    });
    const done = await runAll(queue, inputs);
    return { spans, took: Math.max(...done.map(({ ended }) => ended)) - done[0]!.created };
  } finally {
    over.abort();
    await serving;
    close();
    await rm(folder, { recursive: true });
  }
}

/** The camera, whose sampling takes as long as it is told, the same for each step. Notes when a clip was on the GPU. */
function steady(spans: Span[]): Model {
  return {
    ...camera,
    async open(request) {
      const from = performance.now();
      const opened = await camera.open(request);
      return {
        ...opened,
        async denoise(x, sigma, conditional) {
          if (conditional) await delay(clip / request.steps, undefined, { signal: request.signal }); // once a step
          return opened.denoise(x, sigma, conditional);
        },
        async *decode(x) {
          yield* opened.decode(x);
          spans.push({ from, to: performance.now() });
        },
      };
    },
  };
}

/** The time in which there was at least one, and how many there were at most at once. */
function union(spans: Span[]): { busy: number; most: number } {
  const changes = spans
    .flatMap(({ from, to }) => [
      { at: from, by: 1 },
      { at: to, by: -1 },
    ])
    .toSorted((a, b) => a.at - b.at || a.by - b.by);
  let [busy, most, count, since] = [0, 0, 0, 0];
  for (const { at, by } of changes) {
    if (count > 0) busy += at - since;
    count += by;
    most = Math.max(most, count);
    since = at;
  }
  return { busy, most };
}
