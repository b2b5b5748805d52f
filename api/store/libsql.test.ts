import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ids, insertTask, newTask } from '../../test/support/test-store.ts';
import { openStore } from './store.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'store-'));
});
afterEach(() => rm(folder, { recursive: true }));
const url = () => `file:${folder}/tasks.db`;

test('one process at a time uses the folder; the next one ends the leases of the previous', async () => {
  const store = await openStore(url());
  await expect(openStore(url())).rejects.toThrow(/in use by another process/);
  const [leased, later] = [newTask(), newTask()];
  for (const task of [leased, later]) await insertTask(store, task);
  await store.claim([leased.id], { lease: 60_000 });
  await store.update((await store.get(later.id))!, { nextRunIn: 60_000 });
  await store.close();
  const next = await openStore(url());
  expect((await next.claimWaiting({ lease: 1000, limit: 10, free: 9, share: 1 })).map(({ id }) => id)).toEqual([
    leased.id,
  ]);
  await next.close();
});

test.each(['with blank', 'C#', 'what?', '100%', 'a%20b'])('the database lies in a folder named %j', async (name) => {
  const path = join(folder, name, 'tasks.db');
  const store = await openStore(pathToFileURL(path).href);
  await store.close();
  expect(existsSync(path)).toBe(true);
  expect(await readdir(folder)).toEqual([name]);
});

test('only the owner can read the database, because it holds secrets', async () => {
  const store = await openStore(url());
  await insertTask(store, newTask());
  const files = (await readdir(folder)).filter((name) => name.startsWith('tasks.db'));
  expect(files.sort()).toEqual(['tasks.db', 'tasks.db-shm', 'tasks.db-wal']);
  for (const name of files) expect((await stat(join(folder, name))).mode & 0o077, name).toBe(0);
  await store.close();
});

test('acknowledged writes survive kill -9 during concurrent writes', async () => {
  const writer = `
    import { openStore } from './api/store/store.ts';
    import { ids, insertTask, newTask } from './test/support/test-store.ts';
    const store = await openStore(process.argv[1]);
    const insert = async () => {
      const task = newTask();
      await insertTask(store, task);
      process.stdout.write(task.id + '\\n');
      void insert();
    };
    for (let i = 0; i < 50; i++) void insert();`;
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', writer, url()], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exited = once(child, 'exit');
  const acknowledged: string[] = [];
  for await (const id of createInterface(child.stdout)) {
    acknowledged.push(id);
    if (acknowledged.length === 500) child.kill('SIGKILL'); // those in the pipe are read to its end
  }
  expect(await exited).toEqual([null, 'SIGKILL']);
  const store = await openStore(url());
  const found = new Set((await store.list({ owner: 'local', limit: 100_000 })).map(({ id }) => id));
  expect(acknowledged.filter((id) => id.length === 36 && !found.has(id))).toEqual([]);
  await store.close();
});

test('while another program holds the write lock, reads go on and writes wait; then all succeed', async () => {
  const store = await openStore(url());
  const first = newTask();
  await insertTask(store, first);
  const program = `
    const database = new (require('libsql'))(process.argv[1]);
    database.exec('begin immediate');
    console.log('locked');
    process.stdin.once('data', () => database.exec('commit')).once('end', () => process.exit());`;
  const child = spawn(process.execPath, ['-e', program, join(folder, 'tasks.db')], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const exited = once(child, 'exit');
  await once(child.stdout, 'data');
  const tasks = [newTask(), newTask()];
  const inserted = Promise.all(tasks.map((task) => insertTask(store, task)));
  let isChecked = false;
  const checked = store.check().then(() => {
    isChecked = true;
  });
  for (let i = 0; i < 20; i++) {
    expect(await store.get(first.id)).toBeDefined();
    await new Promise((resolve) => setImmediate(resolve)); // the write tries to get the lock
  }
  expect(isChecked).toBe(false); // the check writes
  child.stdin.end('unlock');
  await Promise.all([inserted, checked]);
  await exited;
  await insertTask(store, newTask());
  expect(await store.list({ owner: 'local', limit: 10 })).toHaveLength(4);
  await store.close();
});

test('after a clean stop the file alone is the whole database', async () => {
  const store = await openStore(url());
  const tasks = Array.from({ length: 20 }, () => newTask());
  for (const task of tasks) await insertTask(store, task);
  await store.list({ owner: 'local', limit: 10 });
  await store.close();
  await mkdir(join(folder, 'copy'));
  await copyFile(join(folder, 'tasks.db'), join(folder, 'copy/tasks.db'));
  const copy = await openStore(`file:${folder}/copy/tasks.db`);
  expect(ids(await copy.list({ owner: 'local', limit: 100 }))).toEqual(ids(tasks));
  await copy.close();
});
