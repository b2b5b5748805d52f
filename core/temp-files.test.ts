import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { diskBucket } from './bucket/disk.ts';
import { loadOrCreateSecret } from './secret-file.ts';
import { createScratchFolder, removeOrphanedScratch, removeOrphans, tempName } from './temp-files.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'orphans-'));
});
afterEach(() => rm(folder, { recursive: true }));

/** The id of a process that has ended. */
const DEAD = spawnSync(process.execPath, ['--version']).pid;

/** A name as another process creates it. */
const nameOf = (pid: number | string, prefix?: string) => tempName(prefix).replace(`.${process.pid}.`, `.${pid}.`);
const put = (name: string) => writeFile(join(folder, name), 'x');
const left = async () => (await readdir(folder)).sort();

test('names are unique, and valid in a bucket or a path', () => {
  const names = Array.from({ length: 100 }, () => tempName('a-'));
  expect(new Set(names).size).toBe(100);
  for (const name of names) expect(name).toMatch(/^a-[A-Za-z0-9-]*\.\d+\.[\da-f-]+$/);
});

test('files of dead processes are removed; those of living ones, other hosts and other programs stay', async () => {
  await put(nameOf(DEAD));
  await mkdir(join(folder, nameOf(DEAD)));
  await put(nameOf(DEAD).replace(/\.[^.]+$/, '.x')); // not a name of ours
  const stays = [
    tempName(), // this process
    nameOf(process.ppid),
    nameOf(1), // alive, and perhaps another user's
    `elsewhere.${DEAD}.${tempName().split('.').at(-1)}`, // another host
    nameOf(DEAD, 'other-'), // another prefix
    nameOf(0), // kill would signal the whole process group
    nameOf(`-${DEAD}`),
    'notes.txt',
    `x.${DEAD}`,
  ];
  for (const name of stays) await put(name);
  await mkdir(join(folder, 'folder'));
  const others = (await left()).filter((name) => name.endsWith('.x'));
  await removeOrphans(folder);
  expect(await left()).toEqual([...stays, ...others, 'folder'].sort());
});

test('folders are removed with their contents, and only those with the prefix', async () => {
  await mkdir(join(folder, nameOf(DEAD, 'a-'), 'below'), { recursive: true });
  await put(nameOf(DEAD, 'b-'));
  const full = (await left())[0]!;
  await put(join(full, 'below', 'video.mp4'));
  await removeOrphans(folder, 'a-');
  expect(await left()).toEqual([expect.stringMatching(/^b-/)]);
});

test('a process removes older files of a predecessor with its own id', async () => {
  const [older, own] = [tempName(), tempName()];
  await put(older);
  await put(own);
  const before = Date.now() / 1000 - process.uptime() - 60; // seconds
  await utimes(join(folder, older), before, before);
  await removeOrphans(folder);
  expect(await left()).toEqual([own]);
});

test('opening a bucket removes the unfinished files of killed processes', async () => {
  const bucket = await diskBucket(folder, { publicUrl: '' });
  const names = [nameOf(DEAD), tempName()];
  for (const name of names) await put(join('tmp', name));
  await bucket.put('a', '1');
  await diskBucket(folder, { publicUrl: '' });
  expect(await readdir(join(folder, 'tmp'))).toEqual([names[1]]);
  expect(String(await bucket.get('a'))).toBe('1');
});

test('a process that was killed while it created a secret leaves nothing', async () => {
  await put(nameOf(DEAD, 'secret.'));
  const secret = await loadOrCreateSecret(join(folder, 'secret'), () => Buffer.alloc(32, 1));
  expect(await left()).toEqual(['secret']);
  expect(await loadOrCreateSecret(join(folder, 'secret'), () => Buffer.alloc(32, 2))).toEqual(secret);
});

test('scratch folders are private to their owner, and removed when it has died', async () => {
  const own = await createScratchFolder();
  const dead = join(tmpdir(), nameOf(DEAD, 'img2vid-'));
  await mkdir(dead);
  try {
    await writeFile(join(dead, 'video-1.mp4'), 'x');
    await removeOrphanedScratch();
    expect([existsSync(own), existsSync(dead)]).toEqual([true, false]);
  } finally {
    await rm(own, { recursive: true });
    await rm(dead, { recursive: true, force: true });
  }
});
