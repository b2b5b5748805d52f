import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { fuzzPictures, growth } from './pictures.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'soak-test-'));
});
afterAll(() => rm(folder, { recursive: true }));

test('200 changed pictures give pictures or refusals, and leave nothing over', async () => {
  const kept = join(folder, 'none');
  const report = await fuzzPictures({ seed: 1, isDone: (count) => count === 200, folder: kept });
  expect(report.violations).toEqual([]);
  expect(report).toMatchObject({ count: 200, accepted: expect.any(Number), refused: expect.any(Number) });
  expect(report.accepted + report.refused).toBe(200);
  expect(report.accepted).toBeGreaterThan(20);
  expect(report.refused).toBeGreaterThan(20);
  await expect(readdir(kept)).rejects.toThrow('ENOENT');
}, 60_000);

test('a picture that crashes a decoder is reported and kept, and the trial goes on', async () => {
  const decoder = join(folder, 'crashing.mjs');
  const crashing = `process.on('message', ({ png }) => png ? process.kill(process.pid, 'SIGSEGV') : process.send({ refused: 'x', rss: 1 }));`;
  await writeFile(decoder, crashing);
  const kept = join(folder, 'kept');
  const report = await fuzzPictures({ seed: 2, isDone: (count) => count === 3, folder: kept, decoder });
  const paths = [0, 1, 2].map((n) => join(kept, `seed-2-${n}.bin`));
  expect(report.violations).toEqual(
    paths.map((path, n) => `a decoder ended: SIGSEGV: picture ${n} of seed 2, ${path}`),
  );
  const again = await fuzzPictures({
    seed: 2,
    isDone: (count) => count === 1,
    folder: `${kept}-2`,
    decoder,
  });
  expect(await readFile(join(`${kept}-2`, 'seed-2-0.bin'))).toEqual(await readFile(paths[0]!)); // the seed gives it again
  expect(again.count).toBe(1);
});

test('growth differs from noise', () => {
  const noise = Array.from({ length: 1000 }, (_, i) => 100e6 + ((i * 7919) % 50) * 1e6);
  expect(Math.abs(growth(noise))).toBeLessThan(10e6);
  expect(growth(noise.map((rss, i) => rss + i * 1e6))).toBeGreaterThan(700e6);
  expect(growth([1, 2, 3e9])).toBe(0);
});
