import { chmod, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { diskBucket } from './bucket/disk.ts';
import { writeSecret } from './secret-file.ts';

let folder: string;
let path: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'secret-test-'));
  path = join(folder, 'link-secret');
});
afterEach(() => rm(folder, { recursive: true }));

const open = () => diskBucket(folder, { publicUrl: '' });
const modeOf = async (file: string) => (await stat(file)).mode & 0o777;

test('a bucket whose secret is empty or short is not opened, because its links could be forged', async () => {
  for (const bytes of [0, 1, 31]) {
    await writeFile(path, Buffer.alloc(bytes, 7));
    await expect(open()).rejects.toThrow(`link-secret has ${bytes} bytes and needs at least 32: delete it`);
    expect(await readFile(path)).toHaveLength(bytes);
  }
  await rm(path);
  await open();
  expect([await modeOf(path), (await readFile(path)).length]).toEqual([0o600, 32]);
});

test('a secret replaces an older file that everybody could read, and leaves no other file', async () => {
  await writeFile(path, 'an older and longer secret');
  await chmod(path, 0o644);
  await writeSecret(path, 'new');
  expect([await modeOf(path), await readFile(path, 'utf8')]).toEqual([0o600, 'new']);
  expect(await readdir(folder)).toEqual(['link-secret']);
});

test('a start with a full disk finds its secrets, and writes none', async () => {
  const hook = join(folder, 'webhook-secret');
  await open();
  await writeSecret(hook, 'whsec_x');
  const before = await Promise.all([stat(path), stat(hook)]);
  await open();
  await writeSecret(hook, 'whsec_x');
  const after = await Promise.all([stat(path), stat(hook)]);
  expect(after.map(({ ino, mtimeMs }) => [ino, mtimeMs])).toEqual(before.map(({ ino, mtimeMs }) => [ino, mtimeMs]));
});
