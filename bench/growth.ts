/**
 * `npm run bench -- growth`: the power by which the time of a job grows with each of its sizes, and that of the store's queries with the
 * tasks it holds: log(how much longer the larger of two takes) / log(how much larger it is).
 */
import { randomUUID } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { diskBucket } from '../core/bucket/disk.ts';
import { taskFolder } from '../core/job.ts';
import { parseRequest } from '../core/request.ts';
import { HOUR } from '../core/time.ts';
import { camera } from '../handler/models/camera.ts';
import { openSvd } from '../handler/models/svd.ts';
import { runJob, type Worker } from '../handler/pipeline.ts';
import { insertTask, newTask } from '../test/support/test-store.ts';
import { type FilledStore, fillStore } from './filled-store.ts';
import { numberFlags, timed } from './measure.ts';
import { pathOf, SMALL_SVD } from './peers.ts';
import { type Report, type Row, row, say } from './report.ts';

/** Few and many are numbers of stored tasks. */
const { rounds, threads, few, many } = numberFlags({ rounds: 3, threads: 2, few: 10_000, many: 100_000 });

/** The aims, each with an allowance for noise. */
const LINEAR = 1.15;
const CONSTANT = 0.15;

export async function run(): Promise<Report> {
  const scratch = await mkdtemp(join(tmpdir(), 'bench-growth-'));
  const rows = [...(await measureJobs(scratch)), ...(await measureStore(scratch))];
  await rm(scratch, { recursive: true });
  return { how: `Growth: exponents between two sizes, ${rounds} rounds; svd are the tests’ small networks.`, rows };
}

type Sizes = Record<string, number>;
const SVD = { H: 128, W: 192, T: 8, steps: 4 };
const CASES: [what: string, model: 'camera' | 'svd', less: Sizes, more: Sizes][] = [
  ['T', 'camera', { T: 20 }, { T: 60 }],
  ['H×W', 'camera', { H: 320, W: 512 }, { H: 640, W: 1024 }],
  ['steps', 'camera', { steps: 20 }, { steps: 100 }],
  ['num_cols', 'camera', { num_cols: 2 }, { num_cols: 6 }],
  ['T', 'svd', { ...SVD, T: 6 }, { ...SVD, T: 18 }],
  ['H×W', 'svd', { ...SVD, T: 4 }, { ...SVD, T: 4, H: 256, W: 384 }],
  ['steps', 'svd', { ...SVD, steps: 4 }, { ...SVD, steps: 12 }],
  ['num_cols', 'svd', { ...SVD, num_cols: 1 }, { ...SVD, num_cols: 3 }],
  ['decoding_t', 'svd', { ...SVD, decoding_t: 2 }, { ...SVD, decoding_t: 8 }],
];

async function measureJobs(scratch: string): Promise<Row[]> {
  const bucket = await diskBucket(join(scratch, 'bucket'), { publicUrl: '' });
  const picture = await readFile(pathOf('../assets/coffee.png'));
  const common = { bucket, bridges: [], allowPrivate: false, stillTimeout: 60_000, framesDir: undefined };
  const svd = openSvd(SMALL_SVD, { threads });
  const workers: Record<'camera' | 'svd', Worker> = {
    camera: { ...common, modelName: 'camera', model: camera },
    svd: { ...common, modelName: 'svd', model: svd },
  };

  /** Milliseconds of a whole job, from a picture in the bucket to a video in it. */
  async function timeJob(model: 'camera' | 'svd', values: Sizes): Promise<number> {
    const task_id = randomUUID();
    const limits = { maxFrames: 100, maxFps: 120 };
    const { input } = parseRequest({ seed: 1, ...values }, { limits, model, hasImage: true, seed: 1 });
    const image_key = `${taskFolder(task_id)}/upload`;
    await bucket.put(image_key, picture);
    const context = { jobId: 'job', progress() {}, signal: new AbortController().signal };
    return timed(() => runJob({ ...input, task_id, model, image_key }, workers[model], context));
  }

  const rows: Row[] = [];
  for (const [what, model, less, more] of CASES) {
    say(`${model}: ${what} …`);
    const size = (values: Sizes) => (what === 'H×W' ? values.H! * values.W! : values[what]!);
    const exponents = await measureExponent(
      size(more) / size(less),
      () => timeJob(model, less),
      () => timeJob(model, more),
    );
    const most = what === 'decoding_t' ? CONSTANT : LINEAR;
    rows.push(row(`${model}: a job by ${what}`, '', exponents, { aim: { of: 'ours', most } }));
  }
  await svd.close();
  return rows;
}

const anyId = ({ ids }: FilledStore) => ids[Math.floor(Math.random() * ids.length)]!;
const QUERIES: Record<string, (of: FilledStore) => Promise<unknown>> = {
  'a task by id': (of) => of.store.get(anyId(of)),
  'a page of 100': (of) => of.store.list({ owner: 'local', before: anyId(of), limit: 100 }),
  'a new task': ({ store }) => insertTask(store, newTask()),
  'tasks that are due': ({ store }) => store.claimDue({ lease: 60_000, limit: 20 }),
  'next due': ({ store }) => store.nextDue(),
};

async function measureStore(scratch: string): Promise<Row[]> {
  const fill = (count: number) =>
    fillStore(join(scratch, String(count)), count, newTask, (n) => (n % 10 ? null : HOUR)); // a tenth waits
  const [smaller, larger] = [await fill(few), await fill(many)];
  const rows: Row[] = [];
  for (const [what, query] of Object.entries(QUERIES)) {
    const timeQueries = (of: FilledStore) =>
      timed(async () => {
        for (let i = 0; i < 200; i++) await query(of);
      });
    const exponents = await measureExponent(
      many / few,
      () => timeQueries(smaller),
      () => timeQueries(larger),
    );
    rows.push(row(`store: ${what}, by tasks stored`, '', exponents, { aim: { of: 'ours', most: CONSTANT } }));
  }
  await smaller.store.close();
  await larger.store.close();
  return rows;
}

/** @param larger how many times the second's size is the first's */
async function measureExponent(larger: number, first: () => Promise<number>, second: () => Promise<number>) {
  const values: { ours: number }[] = [];
  for (let round = 0; round <= rounds; round++) {
    const [less, more] = [await first(), await second()];
    if (round > 0) values.push({ ours: Math.log(more / less) / Math.log(larger) }); // the first round warms up
  }
  return values;
}
