/**
 * `npm run bench -- api`: the API and a bare Hono server with the same store, alternating, each a process of its own with its own copy of
 * one database. This process sends the requests, and plays RunPod, whose queue has no workers.
 */
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type Dispatcher, Pool } from 'undici';
import { openStore } from '../api/store/store.ts';
import type { NewTask } from '../api/store/task.ts';
import { taskFolder } from '../core/job.ts';
import { startApi } from '../test/support/api-process.ts';
import { insertTask, newTask } from '../test/support/test-store.ts';
import { memoryOf, numberFlags } from './measure.ts';
import { openQueue } from './queue.ts';
import { type Aim, type Figure, figureRows, type Report } from './report.ts';

/** Seconds are those of one rate; a connection has one request at a time. */
const { rounds, seconds, connections, tasks } = numberFlags({ rounds: 5, seconds: 4, connections: 32, tasks: 100_000 });

const SERVERS = { ours: 'api/index.ts', theirs: 'bench/api_bare.ts' };
type Name = keyof typeof SERVERS;

/** What one life of a server shows. */
interface Life {
  /** a second */
  posts: number;
  gets: number;
  /** milliseconds until the list's first byte */
  firstByte: number;
  /** MB a second */
  listRate: number;
  /** MB, the most during the list */
  aboveIdle: number;
}

const FAST: Aim = { of: 'ratio', least: 0.7 };
const FIGURES: Figure<Life>[] = [
  { what: 'posts', label: 'POST, stored', unit: '/s', aim: FAST },
  { what: 'gets', label: 'GET by id', unit: '/s', aim: FAST },
  { what: 'firstByte', label: 'list: first byte', unit: 'ms', aim: { of: 'ours', most: 50 } },
  { what: 'listRate', label: 'list', unit: 'MB/s' },
  { what: 'aboveIdle', label: 'list: memory above idle', unit: 'MB', aim: { of: 'ours', most: 20 } },
];

export async function run(): Promise<Report> {
  const queue = await openQueue();
  const scratch = await mkdtemp(join(tmpdir(), 'bench-api-'));
  const template = join(scratch, 'template');
  const ids = await fillStore(template);
  const lives: Record<Name, Life>[] = [];
  for (let round = 0; round < rounds; round++) {
    const life: Partial<Record<Name, Life>> = {};
    for (const name of round % 2 ? (['theirs', 'ours'] as const) : (['ours', 'theirs'] as const)) {
      const folder = join(scratch, `${name}-${round}`);
      await cp(template, folder, { recursive: true });
      life[name] = await measureLife(name, folder, ids, queue);
    }
    lives.push(life as Record<Name, Life>);
  }
  await queue.close();
  await rm(scratch, { recursive: true });
  return {
    how: `API: libSQL with ${tasks} tasks, ${connections} connections, ${seconds} s a rate, ${rounds} rounds.`,
    rows: figureRows(FIGURES, lives, 'bare Hono'),
  };
}

/** Makes a database of ended tasks in this folder. @returns their ids */
async function fillStore(folder: string): Promise<string[]> {
  const store = await openStore(`file:${folder}/tasks.db`);
  const ids: string[] = [];
  while (ids.length < tasks) {
    const batch = Array.from({ length: Math.min(1000, tasks - ids.length) }, endedTask);
    await Promise.all(batch.map((task) => insertTask(store, task)));
    const due = await store.claimDue({ lease: 60_000, limit: batch.length });
    await Promise.all(due.map((task) => store.update(task, { nextRunIn: null }))); // nothing is left to do for them
    ids.push(...batch.map(({ id }) => id));
  }
  await store.close();
  return ids;
}

function endedTask(): NewTask {
  const now = Date.now();
  const task = newTask({ status: 'succeeded', progress: 1, started_at: now, finished_at: now });
  const video = { seed: 23, width: 512, height: 288, frames: 14, fps: 6, seconds: 14 / 6, bytes: 212_345 };
  const videos = [{ key: `${taskFolder(task.id)}/job/video-1.mp4`, ...video, sha256: 'f'.repeat(64) }];
  const still = `${taskFolder(task.id)}/still.png`;
  const output = { videos, still, seed: 23, model: 'camera' as const, warnings: [], timings_ms: { sampling: 1234 } };
  return { ...task, input: { prompt: 'a lighthouse at dawn', seed: 23, H: 288, W: 512 } as never, output, still };
}

async function measureLife(
  name: Name,
  folder: string,
  ids: string[],
  queue: Awaited<ReturnType<typeof openQueue>>,
): Promise<Life> {
  const { url, child, exited } = await startApi({
    entry: SERVERS[name],
    dataDir: folder,
    runpod: { url: `${queue.url}/v2`, apiKey: queue.apiKey },
    env: { DATABASE_URL: `file:${folder}/tasks.db`, RUNPOD_LOG_LEVEL: 'ERROR' },
  });
  const pool = new Pool(url, { connections, pipelining: 1 });
  const getAny = () =>
    request(pool, { method: 'GET', path: `/status?id=${ids[Math.floor(Math.random() * ids.length)]}` });

  await measureRate(1, getAny); // warms up
  await delay(1000);
  const idle = memoryOf(child.pid!, 'VmRSS');
  await writeFile(`/proc/${child.pid}/clear_refs`, '5'); // the peak is counted from here
  const listed = await list(pool);
  const aboveIdle = (memoryOf(child.pid!, 'VmHWM') - idle) / 1e6;

  await measureRate(1, () => request(pool, POST));
  const posts = await measureRate(seconds, () => request(pool, POST));
  const gets = await measureRate(seconds, getAny);
  await pool.destroy();
  child.kill('SIGKILL');
  await exited;
  await rm(folder, { recursive: true, force: true });
  return { posts, gets, ...listed, aboveIdle };
}

/** How often a second a request is answered, on all connections together. */
async function measureRate(seconds: number, request: () => Promise<void>): Promise<number> {
  const start = performance.now();
  let count = 0;
  async function repeat() {
    for (; performance.now() - start < seconds * 1000; count++) await request();
  }
  await Promise.all(Array.from({ length: connections }, repeat));
  return (1000 * count) / (performance.now() - start);
}

const POST: Dispatcher.RequestOptions = {
  method: 'POST',
  path: '/img2vid',
  headers: { 'content-type': 'application/json' },
  body: JSON.stringify({ prompt: 'a lighthouse at dawn', seed: 23, motion_bucket_id: 90 }),
};

async function request(pool: Pool, options: Dispatcher.RequestOptions) {
  const { statusCode, body } = await pool.request(options);
  await body.dump();
  if (statusCode !== 200 && statusCode !== 202) throw new Error(`a ${options.method} was answered with ${statusCode}`);
}

async function list(pool: Pool) {
  const start = performance.now();
  const { body } = await pool.request({ method: 'GET', path: '/status' });
  let [firstByte, size, end] = [0, 0, ''];
  for await (const chunk of body as AsyncIterable<Buffer>) {
    firstByte ||= performance.now() - start;
    size += chunk.length / 1e6;
    end = chunk.toString('latin1').slice(-1);
  }
  if (end !== ']' || size < (200 * tasks) / 1e6) throw new Error(`the list is not complete: ${size} MB`);
  return { firstByte, listRate: size / ((performance.now() - start) / 1000) };
}
