import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { main } from './gallery.ts';
import { PICTURES } from './gallery-pictures.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gallery-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function run(...args: string[]) {
  const output = { out: '', err: '' };
  const write = (name: 'out' | 'err') => ({
    write(text: string) {
      output[name] += text;
    },
  });
  const status = await main(args, { env: {}, out: write('out'), err: write('err') });
  return { status, ...output };
}

test('a sheet has a row of frames for each seed, and the first frame is the still', async () => {
  const path = join(folder, 'new', 'sheet.png');
  const { status, out } = await run('--out', path, '--kinds', 'animal', '--seeds', '1,2', '--motion', '512');
  expect(status).toBe(0);
  expect(out.split('\n').slice(0, 2)).toEqual([
    'animal, seed 1: 768×512, the first frame is the still',
    'animal, seed 2: 768×512, the first frame is the still',
  ]);
  const sheet = await sharp(path).metadata();
  expect([sheet.width, sheet.height]).toEqual([5 * 326, 2 * 226]);
});

test('every picture can be made', async () => {
  for (const [kind, make] of Object.entries(PICTURES)) {
    const { width, height } = await sharp(await make()).metadata();
    expect(width * height, kind).toBeGreaterThan(100_000);
  }
});

test.each([
  [['--kinds', 'portrait,car'], /^--kinds: must be of portrait, .*, not car\n$/],
  [['--seeds', '1,x'], /^--seeds: must be whole numbers up to 999999999, not x\n$/],
  [['--motion', '513'], /^--motion: must be a whole number from 0 to 512, not 513\n$/],
  [['--size', '3'], /--out, --kinds, --seeds, --motion, --help/],
])('%j is refused', async (args, message) => {
  const { status, err } = await run(...args);
  expect(status).toBe(2);
  expect(err).toMatch(message);
});
