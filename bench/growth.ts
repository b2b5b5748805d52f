/**
 * `npm run bench -- growth`: by which power the time of a job grows with each of its sizes, and that of the store's questions with the
 * tasks it holds: the logarithm of how much longer the larger of two takes, to the base of how much larger it is.
 */
import { randomUUID } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openStore, type Store } from '../api/store/store.ts';
import { diskBucket } from '../core/bucket/disk.ts';
import { taskFolder } from '../core/job.ts';
import { parseRequest } from '../core/request.ts';
import { camera } from '../handler/models/camera.ts';
import { openSvd } from '../handler/models/svd.ts';
import { runJob, type Worker } from '../handler/pipeline.ts';
import { insertTask, newTask } from '../test/support/test-store.ts';
import { readFlags } from './flags.ts';
import { type Row, row, say, tell, timed } from './report.ts';

const flags = readFlags({
  rounds: { type: 'string', default: '3' },
  threads: { type: 'string', default: '2' },
  /** tasks in the store: few, and many */
  few: { type: 'string', default: '10000' },
  many: { type: 'string', default: '100000' },
});
const rounds = Number(flags.rounds);
const file = (path: string) => fileURLToPath(new URL(`../${path}`, import.meta.url));

/** Linear, but for what a measurement is off by. */
const LINEAR = 1.15;
const CONSTANT = 0.15;

const scratch = await mkdtemp(join(tmpdir(), 'bench-growth-'));
const rows: Row[] = [];
await jobs();
await store();
await rm(scratch, { recursive: true });
tell(`Growth: exponents between two sizes, ${rounds} rounds; svd are the tests’ small networks.`, rows);
process.exit(0);

async function jobs() {
  const bucket = await diskBucket(join(scratch, 'bucket'), { publicUrl: '' });
  const picture = await readFile(file('assets/coffee.png'));
  const common = { bucket, bridges: [], allowPrivate: false, stillTimeout: 60_000, framesDir: undefined };
  const svd = openSvd(file('handler/models/testdata/small-svd'), { threads: Number(flags.threads) });
  const workers: Record<'camera' | 'svd', Worker> = {
    camera: { ...common, modelName: 'camera', model: camera },
    svd: { ...common, modelName: 'svd', model: svd },
  };

  /** A whole job, from a picture in the bucket to a video in it. */
  async function job(model: 'camera' | 'svd', values: Record<string, number>): Promise<number> {
    const task_id = randomUUID();
    const limits = { maxFrames: 100, maxFps: 120 };
    const { input } = parseRequest({ seed: 1, ...values }, { limits, model, hasImage: true, seed: 1 });
    const image_key = `${taskFolder(task_id)}/upload`;
    await bucket.put(image_key, picture);
    const context = { jobId: 'job', progress() {}, signal: new AbortController().signal };
    return timed(() => runJob({ ...input, task_id, model, image_key }, workers[model], context));
  }

  const medium = { H: 128, W: 192, T: 8, steps: 4 };
  const cases: [what: string, model: 'camera' | 'svd', ...sizes: [Record<string, number>, Record<string, number>]][] = [
    ['T', 'camera', { T: 20 }, { T: 60 }],
    ['H×W', 'camera', { H: 320, W: 512 }, { H: 640, W: 1024 }],
    ['steps', 'camera', { steps: 20 }, { steps: 100 }],
    ['num_cols', 'camera', { num_cols: 2 }, { num_cols: 6 }],
    ['T', 'svd', { ...medium, T: 6 }, { ...medium, T: 18 }],
    ['H×W', 'svd', { ...medium, T: 4 }, { ...medium, T: 4, H: 256, W: 384 }],
    ['steps', 'svd', { ...medium, steps: 4 }, { ...medium, steps: 12 }],
    ['num_cols', 'svd', { ...medium, num_cols: 1 }, { ...medium, num_cols: 3 }],
    ['decoding_t', 'svd', { ...medium, decoding_t: 2 }, { ...medium, decoding_t: 8 }],
  ];
  for (const [what, model, less, more] of cases) {
    say(`${model}: ${what} …`);
    const size = (values: Record<string, number>) => (what === 'H×W' ? values.H! * values.W! : values[what]!);
    const larger = size(more) / size(less);
    const most = what === 'decoding_t' ? CONSTANT : LINEAR;
    const exponents = await exponent(
      larger,
      () => job(model, less),
      () => job(model, more),
    );
    rows.push(row(`${model}: a job by ${what}`, '', exponents, { aim: { of: 'ours', most } }));
  }
  await svd.close();
}

async function store() {
  const [few, many] = await Promise.all([flags.few, flags.many].map((count) => filled(Number(count))));
  const larger = Number(flags.many) / Number(flags.few);
  const questions: Record<string, (of: { store: Store; ids: string[] }) => Promise<unknown>> = {
    'a task by id': ({ store, ids }) => store.get(ids[Math.floor(Math.random() * ids.length)]!),
    'a page of 100': ({ store, ids }) =>
      store.list({ owner: 'local', before: ids[Math.floor(Math.random() * ids.length)]!, limit: 100 }),
    'a new task': ({ store }) => insertTask(store, newTask({})),
    'tasks that are due': ({ store }) => store.claimDue({ lease: 60_000, limit: 20 }),
    'next due': ({ store }) => store.nextDue(),
  };
  for (const [what, ask] of Object.entries(questions)) {
    const often = (of: typeof few) => async () => {
      for (let i = 0; i < 200; i++) await ask(of!);
    };
    const exponents = await exponent(
      larger,
      () => timed(often(few)),
      () => timed(often(many)),
    );
    rows.push(row(`store: ${what}, by tasks stored`, '', exponents, { aim: { of: 'ours', most: CONSTANT } }));
  }
  await Promise.all([few, many].map((one) => one!.store.close()));
}

/** A store of so many tasks, a tenth of them still waiting for their turn. */
async function filled(count: number) {
  const store = await openStore(`file:${join(scratch, String(count))}/tasks.db`);
  const ids: string[] = [];
  for (let done = 0; done < count; done += 1000) {
    const tasks = Array.from({ length: Math.min(1000, count - done) }, () => newTask({}));
    await Promise.all(tasks.map((task) => insertTask(store, task)));
    const due = await store.claimDue({ lease: 60_000, limit: tasks.length });
    await Promise.all(due.map((task, i) => store.update(task, { nextRunIn: i % 10 ? null : 3_600_000 })));
    ids.push(...tasks.map(({ id }) => id));
  }
  return { store, ids };
}

/** @param larger how many times the second's size is the first's */
async function exponent(larger: number, first: () => Promise<number>, second: () => Promise<number>) {
  const values: { ours: number }[] = [];
  for (let round = 0; round <= rounds; round++) {
    const [less, more] = [await first(), await second()];
    if (round > 0) values.push({ ours: Math.log(more / less) / Math.log(larger) }); // the first round warms up
  }
  return values;
}
