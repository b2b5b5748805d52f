/** Malicious pictures and URLs in a worker's job: each ends with its error code, and leaves nothing. */
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readlink, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { camera } from '../../handler/models/camera.ts';
import { runJob } from '../../handler/pipeline.ts';
import { maliciousPictures, swellingPictures, validPictures } from '../../test/support/malicious-pictures.ts';
import { refusedUrls } from '../../test/support/malicious-urls.ts';
import type { Bucket } from '../bucket/bucket.ts';
import { diskBucket } from '../bucket/disk.ts';
import { decode } from './decode.mjs';
import { toPng } from './picture.ts';

const limits = { maxPixels: 64_000_000, maxSide: 65_535, maxScans: 100 };

let folder: string;
let bucket: Bucket;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'malicious-'));
  await mkdir(join(folder, 'tmp'));
  vi.stubEnv('TMPDIR', join(folder, 'tmp')); // only the job and the decoder write there
  bucket = await diskBucket(join(folder, 'bucket'), { publicUrl: '' });
});
afterAll(async () => {
  vi.unstubAllEnvs();
  await rm(folder, { recursive: true });
});

let count = 0;
/** Runs a job for the URL. @returns its error code, after a check that it left no files */
async function refusal(image_url: string, allowPrivate: boolean) {
  const task_id = `01a206ec-8c81-72d2-88c2-${String(++count).padStart(12, '0')}`;
  const job = {
    ...{ task_id, model: 'camera', image_url, H: 64, W: 64, T: 1, fps: 6, seed: 3, steps: 1, cond_aug: 0.02 },
    ...{ decoding_t: 1, motion_bucket_id: 127, num_cols: 1, image_index: 1, fit: 'cover' },
    ...{ sampler: 'DPMPP2MSampler', discretization: 'LegacyDDPMDiscretization', guider: 'IdentityGuider' },
  };
  const worker = { modelName: 'camera', model: camera, bucket, bridges: [], allowPrivate } as const;
  const { signal } = new AbortController();
  const error = await runJob(
    job,
    { ...worker, stillTimeout: 1000, framesDir: undefined },
    { jobId: 'job-1', progress() {}, signal },
  ).catch((error) => error);
  const left = await readdir(join(folder, 'bucket/objects/tasks', task_id)).catch(() => []);
  expect(left, 'only the result').toEqual(error.code === 'image_rejected' ? ['result.json'] : []);
  return error.code;
}

/** The files and sockets that this process has open, without Node's own. */
async function openFiles() {
  const names = await readdir('/proc/self/fd');
  const targets = await Promise.all(names.map((name) => readlink(`/proc/self/fd/${name}`).catch(() => '')));
  return targets.filter((target) => /^(socket|pipe):|\/tmp/.test(target)).length;
}

test('every malicious picture is refused, as an upload and by the worker', async () => {
  const { crafted, truncated } = await maliciousPictures();
  const pictures = [...crafted, ...truncated];
  expect(pictures.length).toBeGreaterThan(100);
  const accepted: string[] = [];
  for (const { name, bytes } of pictures) {
    for (const png of [false, true]) {
      await decode(bytes, { png, ...limits }).then(
        () => accepted.push(name),
        () => {},
      );
    }
  }
  expect(accepted).toEqual([]);
});

test('a malicious picture at an image_url is image_rejected, and leaves no file, socket or process', async () => {
  const pictures = (await maliciousPictures()).crafted.filter((_, i) => i % 2 === 0); // the others: api/routes/malicious-upload.test.ts
  expect(pictures.length).toBeGreaterThan(30);
  const server = createServer((request, response) => {
    const { bytes } = pictures[Number(request.url!.slice(1))]!;
    response.writeHead(200, { 'content-type': 'image/png', 'content-length': bytes.length }).end(bytes);
  });
  server.keepAliveTimeout = 0; // the client must close the connection
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  try {
    const connections = () => new Promise<number>((resolve) => server.getConnections((_, n) => resolve(n)));
    const before = await openFiles();
    const codes: Record<string, string> = {};
    const one = async (i: number) => {
      codes[pictures[i]!.name] = await refusal(`http://127.0.0.1:${port}/${i}`, true);
    };
    for (let i = 0; i < pictures.length; i += 2) {
      await Promise.all([one(i), i + 1 < pictures.length && one(i + 1)]);
    }
    expect(codes).toEqual(Object.fromEntries(pictures.map(({ name }) => [name, 'image_rejected'])));
    expect(await readdir(join(folder, 'tmp'))).toEqual([]);
    await vi.waitUntil(async () => (await connections()) === 0, { timeout: 5000 }); // kept alive for a second
    await vi.waitUntil(async () => (await openFiles()) <= before, { timeout: 5000 });
  } finally {
    server.close();
    server.closeAllConnections();
  }
}, 120_000);

test('a picture that decompresses to large data is read, and the data is not kept', async () => {
  for (const { name, bytes } of swellingPictures()) {
    const png = await toPng(bytes);
    expect(png.length, name).toBeLessThan(10_000);
    const { width, height, icc, xmp, comments } = await sharp(png).metadata();
    expect([icc, xmp, comments], name).toEqual([undefined, undefined, undefined]);
    expect(width * height, name).toBeLessThanOrEqual(1_000_000);
  }
}, 60_000);

test('every valid picture is accepted', async () => {
  for (const [type, bytes] of Object.entries(await validPictures())) {
    const png = await decode(bytes, { png: true, ...limits });
    expect(await sharp(png).metadata(), type).toMatchObject({ format: 'png', width: 96, height: 64, channels: 3 });
  }
});

test.each(refusedUrls)('$url: $job', async ({ url, job }) => {
  expect(await refusal(url, false)).toBe(job);
});
