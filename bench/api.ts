/**
 * `npm run bench -- api`: the API and a bare Hono server with the same store, by turns, each a process of its own with its own copy of
 * one database of 100,000 tasks. This process asks, and plays RunPod, whose queue nobody works at.
 */
import type { ChildProcess } from 'node:child_process';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Pool } from 'undici';
import { openStore } from '../api/store/store.ts';
import { hasPostgres, startPostgres } from '../infra/simulators/postgres-server.ts';
import { startApi } from '../test/support/api-process.ts';
import { insertTask, newTask } from '../test/support/test-store.ts';
import { readFlags } from './flags.ts';
import { openQueue } from './queue.ts';
import { type Aim, row, tell } from './report.ts';

const flags = readFlags({
  rounds: { type: 'string', default: '5' },
  /** seconds for each rate */
  seconds: { type: 'string', default: '4' },
  /** connections, each with one request at a time */
  connections: { type: 'string', default: '32' },
  tasks: { type: 'string', default: '100000' },
  /** libsql or postgres */
  store: { type: 'string', default: 'libsql' },
});
const [rounds, seconds, connections, tasks] = [flags.rounds, flags.seconds, flags.connections, flags.tasks].map(
  Number,
) as [number, number, number, number];
if (!['libsql', 'postgres'].includes(flags.store)) throw new Error('--store must be libsql or postgres');
if (flags.store === 'postgres' && !hasPostgres) throw new Error('--store postgres: PostgreSQL is not installed here');

const SERVERS = { ours: 'api/index.ts', bare: 'bench/api_bare.ts' };
type Name = keyof typeof SERVERS;
/** MB, beside a list of a hundred: it does not grow with the list */
const LITTLE = 20;

/** What one life of a server shows. */
interface Life {
  /** a second */
  posts: number;
  gets: number;
  /** milliseconds until the list's first byte */
  firstByte: number;
  listRate: number; // MB a second
  listSize: number; // MB
  /** MB; above idle is the most during the list */
  idle: number;
  aboveIdle: number;
}

const { url: queueUrl, env: queueEnv, close: closeQueue } = await openQueue();
const scratch = await mkdtemp(join(tmpdir(), 'bench-api-'));
const postgres = flags.store === 'postgres' ? await startPostgres() : undefined;
const template = await fill();

const lives: Record<Name, Life[]> = { ours: [], bare: [] };
for (let round = 0; round < rounds; round++)
  for (const name of round % 2 ? (['bare', 'ours'] as const) : (['ours', 'bare'] as const))
    lives[name].push(await live(name));
print();
closeQueue();
await postgres?.stop();
await rm(scratch, { recursive: true });
process.exit(0);

/** A database of ended tasks, to be copied for each life. */
async function fill(): Promise<{ ids: string[]; copy(): Promise<{ folder: string; url: string }> }> {
  const made = await postgres?.database();
  const folder = join(scratch, 'template');
  const store = await openStore(made?.url ?? `file:${folder}/tasks.db`);
  const ids: string[] = [];
  for (let done = 0; done < tasks; done += 1000) {
    const some = Array.from({ length: Math.min(1000, tasks - done) }, () => ended());
    await Promise.all(some.map((task) => insertTask(store, task)));
    const due = await store.claimDue({ lease: 60_000, limit: some.length });
    await Promise.all(due.map((task) => store.update(task, { nextRunIn: null }))); // nothing is left to do for them
    ids.push(...some.map(({ id }) => id));
  }
  await store.close();
  let copies = 0;
  return {
    ids,
    async copy() {
      const copy = join(scratch, `copy-${++copies}`);
      if (!made) {
        await cp(folder, copy, { recursive: true });
        return { folder: copy, url: `file:${copy}/tasks.db` };
      }
      const { url, name } = await postgres!.database();
      await postgres!.query('postgres', `drop database ${name}`);
      await postgres!.query('postgres', `create database ${name} template ${made.name}`);
      return { folder: copy, url };
    },
  };
}

function ended() {
  const task = newTask({ status: 'succeeded', progress: 1, started_at: Date.now(), finished_at: Date.now() });
  const folder = `tasks/${task.id}`;
  const video = { seed: 23, width: 512, height: 288, frames: 14, fps: 6, seconds: 14 / 6, bytes: 212_345 };
  const videos = [{ key: `${folder}/job/video-1.mp4`, ...video, sha256: 'f'.repeat(64) }];
  const still = `${folder}/still.png`;
  const output = { videos, still, seed: 23, model: 'camera' as const, warnings: [], timings_ms: { sampling: 1234 } };
  return { ...task, input: { prompt: 'a lighthouse at dawn', seed: 23, H: 288, W: 512 } as never, output, still };
}

async function live(name: Name): Promise<Life> {
  const { folder, url } = await template.copy();
  const started = await startApi({
    entry: SERVERS[name],
    dataDir: folder,
    runpod: { url: `${queueUrl}/v2`, apiKey: queueEnv.RUNPOD_AI_API_KEY },
    env: { DATABASE_URL: url, RUNPOD_LOG_LEVEL: 'ERROR' },
  });
  const { child, exited } = started;
  const pool = new Pool(started.url, { connections, pipelining: 1 });

  const pick = () => template.ids[Math.floor(Math.random() * template.ids.length)]!;
  await rate(1, () => get(pool, pick())); // warm
  await delay(1000);
  const idle = await memory(child, 'VmRSS');
  await writeFile(`/proc/${child.pid}/clear_refs`, '5'); // the peak is counted anew
  const listed = await list(pool);
  const aboveIdle = (await memory(child, 'VmHWM')) - idle;

  await rate(1, () => post(pool));
  const posts = await rate(seconds, () => post(pool));
  const gets = await rate(seconds, () => get(pool, pick()));
  await pool.destroy();
  child.kill('SIGKILL');
  await exited;
  await rm(folder, { recursive: true, force: true });
  return { posts, gets, ...listed, idle, aboveIdle };
}

/** How often a second it is done, on all connections. */
async function rate(seconds: number, once: () => Promise<void>): Promise<number> {
  const start = performance.now();
  const until = start + 1000 * seconds;
  let count = 0;
  const one = async () => {
    for (; performance.now() < until; count++) await once();
  };
  await Promise.all(Array.from({ length: connections }, one));
  return (1000 * count) / (performance.now() - start);
}

async function post(pool: Pool) {
  const { statusCode, body } = await pool.request({
    method: 'POST',
    path: '/img2vid',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ prompt: 'a lighthouse at dawn', seed: 23, motion_bucket_id: 90 }),
  });
  await body.dump();
  if (statusCode !== 202) throw new Error(`a POST was answered with ${statusCode}`);
}

async function get(pool: Pool, id: string) {
  const { statusCode, body } = await pool.request({ method: 'GET', path: `/status?id=${id}` });
  await body.dump();
  if (statusCode !== 200) throw new Error(`a GET was answered with ${statusCode}`);
}

async function list(pool: Pool) {
  const start = performance.now();
  const { body } = await pool.request({ method: 'GET', path: '/status' });
  let [firstByte, size, count] = [0, 0, 0];
  for await (const chunk of body as AsyncIterable<Buffer>) {
    firstByte ||= performance.now() - start;
    size += chunk.length / 1e6;
    for (let at = chunk.indexOf('"created_at"'); at >= 0; at = chunk.indexOf('"created_at"', at + 1)) count++;
  }
  if (Math.abs(count - tasks) > tasks / 100) throw new Error(`the list has ${count} tasks`); // one on two chunks is not counted
  return { firstByte, listRate: size / ((performance.now() - start) / 1000), listSize: size };
}

/** In MB, from /proc. */
async function memory({ pid }: ChildProcess, what: 'VmRSS' | 'VmHWM'): Promise<number> {
  const text = await readFile(`/proc/${pid}/status`, 'utf8');
  return (Number(new RegExp(`^${what}:\\s+(\\d+) kB`, 'm').exec(text)![1]) * 1024) / 1e6;
}

function print() {
  const fast: Aim = { of: 'ratio', least: 0.7 };
  const figures: [what: keyof Life, label: string, unit: string, aim?: Aim][] = [
    ['posts', 'POST, stored', '/s', fast],
    ['gets', 'GET by id', '/s', fast],
    ['firstByte', 'list: first byte', 'ms', { of: 'ours', most: 50 }],
    ['listRate', 'list', 'MB/s'],
    ['listSize', 'list: size', 'MB'],
    ['idle', 'API idle, memory', 'MB'],
    ['aboveIdle', 'list: memory above idle', 'MB', { of: 'ours', most: LITTLE }],
  ];
  const rows = figures.map(([what, label, unit, aim]) => {
    const rounds = lives.ours.map((life, i) => ({ ours: life[what], theirs: lives.bare[i]![what] }));
    return row(label, unit, rounds, { peer: 'bare Hono', ...(aim && { aim }) });
  });
  tell(
    `API: ${flags.store} with ${tasks} tasks, ${connections} connections, ${seconds} s a rate, ${rounds} rounds.`,
    rows,
  );
}
