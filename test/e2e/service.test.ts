import { readdirSync } from 'node:fs';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Hono } from 'hono';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { fitStill } from '../../handler/still/fit.ts';
import { readMp4 } from '../../handler/video/mp4.ts';
import { listen } from '../support/test-api.ts';
import { type Fields, type LocalTestService, PICTURE, startService } from './local-service.ts';

let service: LocalTestService;
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'clips-'));
  service = await startService({ ALLOW_PRIVATE_URLS: '1' });
}, 60_000);
afterAll(async () => {
  await service?.stop();
  await rm(folder, { recursive: true, force: true });
});

const TINY = { H: 64, W: 64, T: 2, steps: 1 };

async function framesOf(link: string) {
  const path = join(folder, `${Math.random()}.mp4`);
  await writeFile(path, new Uint8Array(await (await fetch(link)).arrayBuffer()));
  const frames = [];
  for await (const frame of readMp4(path)) frames.push(frame);
  return frames;
}

/** Peak signal-to-noise ratio of 8-bit pixels, in dB. */
function psnr(a: Uint8Array, b: Uint8Array): number {
  expect(a.length).toBe(b.length);
  let error = 0;
  for (let i = 0; i < a.length; i++) error += (a[i]! - b[i]!) ** 2; // several times as fast as reduce()
  return 10 * Math.log10((255 ** 2 * a.length) / error);
}

describe('clips of a picture', () => {
  test('a picture becomes an MP4 of exactly T frames of W×H at fps that move over it', async () => {
    const task = await service.make({ seed: 23 });
    expect(task).toMatchObject({ status: 'succeeded', progress: 1, model: 'camera', input: { seed: 23 } });
    const [video] = task.videos!;
    expect(video).toMatchObject({ width: 768, height: 512, frames: 73, fps: 24, seed: 23 }); // of a picture of 600×400
    const frames = await framesOf(video!.link);
    expect(frames.map(({ width, height }) => [width, height])).toEqual(Array(73).fill([768, 512]));

    // The move begins with the picture itself, softly, and goes on without jumps.
    const png = Buffer.from(await (await fetch(task.still!.link)).arrayBuffer());
    const fitted = await fitStill(png, { W: 768, H: 512, fit: 'cover' });
    expect(psnr(frames[0]!.data, fitted.data)).toBeGreaterThan(32); // what x264 loses
    expect(psnr(frames.at(-1)!.data, fitted.data)).toBeLessThan(25);
    for (let t = 1; t < frames.length; t++) expect(psnr(frames[t]!.data, frames[t - 1]!.data)).toBeGreaterThan(17);
  });

  test.each([
    ['a portrait', [60, 90], [512, 768]],
    ['a panorama', [400, 40], [896, 384]],
  ] as const)('%s by its URL gives a clip of its shape, and the task’s input gives it again', async (_, from, to) => {
    const [width, height] = from;
    const picture = sharp({ create: { width, height, channels: 3, background: '#369' } });
    const bytes = await picture.png().toBuffer();
    const server = await listen(new Hono().get('/a.png', (c) => c.body(new Uint8Array(bytes))));
    const created = await service.post({ image_url: `${server.url}/a.png`, T: 2, steps: 1 });
    expect(created.input).toMatchObject({ aspect_ratio: 'auto' });
    const task = await service.waitForEnd(created.id);
    expect(task.videos).toMatchObject([{ width: to[0], height: to[1] }]);
    expect([task.input.W, task.input.H]).toEqual(to);
    const [frame] = await framesOf(task.videos![0]!.link);
    expect([frame!.width, frame!.height]).toEqual(to);
    const again = await service.make(task.input as unknown as Fields);
    await server.close();
    expect(again.input).toEqual(task.input);
    expect(again.videos![0]!.sha256).toBe(task.videos![0]!.sha256);
  });

  test('the same seed gives the same bytes, and another seed another clip', async () => {
    const [a, b, c] = await Promise.all([23, 23, 24].map((seed) => service.make({ seed, H: 128, W: 192, T: 8 })));
    expect(a!.videos![0]!.sha256).toBe(b!.videos![0]!.sha256);
    expect(a!.videos![0]!.sha256).not.toBe(c!.videos![0]!.sha256);
  });

  test('num_cols gives as many videos and their grid', async () => {
    const task = await service.make({ seed: 5, num_cols: 3, H: 64, W: 128, T: 3, fps: 10 });
    expect(task.videos!.map(({ seed }) => seed)).toEqual([5, 6, 7]);
    expect(new Set(task.videos!.map(({ sha256 }) => sha256)).size).toBe(3);
    expect(task.grid).toMatchObject({ width: 128, height: 192, frames: 3, fps: 10, seconds: 0.3 });
    expect(task.grid!.filename).toBe('clip-5-grid.mp4');
    expect(await framesOf(task.grid!.link)).toHaveLength(3);
  });

  test('a clip comes with a poster, a preview and a small still, which are deleted with it', async () => {
    const task = await service.make({ prompt: 'A lighthouse, at “dawn”', seed: 23, W: 640, H: 384, T: 20, steps: 2 });
    const [{ link, download_link, poster, preview }] = task.videos as [NonNullable<typeof task.videos>[number]];
    const bytesOf = async (link: string) => Buffer.from(await (await fetch(link)).arrayBuffer());
    const [first] = await framesOf(link);
    const posterBytes = await bytesOf(poster!.link);
    expect(await sharp(posterBytes).metadata()).toMatchObject({ format: 'jpeg', width: 640, height: 384 });
    expect(psnr(await sharp(posterBytes).raw().toBuffer(), first!.data)).toBeGreaterThan(30);
    const previewBytes = await bytesOf(preview!.link);
    const animation = { format: 'webp', width: 480, height: 288, loop: 0 };
    expect(await sharp(previewBytes).metadata()).toMatchObject(animation);
    expect((await sharp(previewBytes).metadata()).pages).toBeGreaterThan(8); // equal frames are one
    expect(previewBytes.length).toBeLessThanOrEqual(400_000);
    expect(await sharp(await bytesOf(task.still!.preview!.link)).metadata()).toMatchObject({ format: 'jpeg' });

    for (const [address, disposition] of [
      [link, 'inline; filename="A-lighthouse-at-dawn-23.mp4"'],
      [download_link, 'attachment; filename="A-lighthouse-at-dawn-23.mp4"'],
      [poster!.link, 'inline; filename="A-lighthouse-at-dawn-23.jpg"'],
      [preview!.link, 'inline; filename="A-lighthouse-at-dawn-23.webp"'],
      [task.still!.link, 'inline; filename="A-lighthouse-at-dawn-still.png"'],
    ] as const)
      expect((await fetch(address)).headers.get('content-disposition')).toBe(disposition);
    const renamed = new URL(download_link);
    renamed.searchParams.set('filename', 'other.exe');
    expect((await fetch(renamed)).status).toBe(403);

    await fetch(`${service.url}/delete?id=${task.id}`, { method: 'POST' });
    for (const gone of [link, poster!.link, preview!.link, task.still!.preview!.link])
      expect((await fetch(gone)).status).toBe(404);
  });

  test('a picture can be given by URL, and other files are refused', async () => {
    const server = await listen(
      new Hono()
        .get('/coffee.png', (c) => c.body(PICTURE))
        .get('/text.jpg', (c) => c.text('hello'))
        .get('/moved', (c) => c.redirect('/coffee.png')),
    );
    const from = async (path: string) => service.make({ image_url: `${server.url}${path}`, ...TINY });
    expect(await from('/coffee.png')).toMatchObject({ status: 'succeeded' });
    expect(await from('/moved')).toMatchObject({ status: 'succeeded' });
    expect(await from('/text.jpg')).toMatchObject({
      status: 'failed',
      error: { code: 'image_rejected', retryable: false },
    });
    expect(await from('/missing')).toMatchObject({
      status: 'failed',
      error: { code: 'image_unavailable', retryable: true },
    });
    await server.close();
  });
});

describe('clips of a prompt', () => {
  test('a prompt becomes a placeholder image and a clip, and another of the four pictures needs no new one', async () => {
    const task = await service.make({ prompt: 'a lighthouse at dawn', ...TINY });
    expect(task.status).toBe('succeeded');
    const png = Buffer.from(await (await fetch(task.still!.link)).arrayBuffer());
    expect(await sharp(png).metadata()).toMatchObject({ format: 'png', width: 1024, height: 1024 }); // --ar 1:1 was added
    const again = await service.make({ still_of: task.id, image_index: 3, ...TINY });
    expect(again.status).toBe('succeeded');
    expect(Buffer.from(await (await fetch(again.still!.link)).arrayBuffer()).equals(png)).toBe(false);
  });

  test('a prompt that the bridge refuses fails the task with the bridge’s reason', async () => {
    expect(await service.make({ prompt: 'something BANNED_PROMPT', ...TINY })).toMatchObject({
      status: 'failed',
      error: { code: 'banned_prompt', retryable: false },
    });
  });
});

test('every sampler, discretization and guider gives a smoothly moving clip of its own at 12 steps', async () => {
  const samplers = [
    'EulerEDMSampler',
    'HeunEDMSampler',
    'EulerAncestralSampler',
    'DPMPP2SAncestralSampler',
    'DPMPP2MSampler',
    'LinearMultistepSampler',
  ];
  const discretizations = ['EDMDiscretization', 'LegacyDDPMDiscretization'];
  const guiders = ['LinearPredictionGuider', 'VanillaCFG', 'IdentityGuider'];
  // Every pair of two choices. camera-oracle.test.ts tests every combination of three.
  const combinations = samplers.flatMap((sampler, i) =>
    guiders.map((guider, j) => ({ sampler, discretization: discretizations[(i + j) % 2]!, guider })),
  );
  const { id: still_of } = await service.make({ ...TINY }); // decoded once for all
  const tasks = await Promise.all(
    combinations.map((choices) =>
      service.post({ still_of, H: 64, W: 128, T: 16, fps: 5, motion_bucket_id: 255, steps: 12, seed: 3, ...choices }),
    ),
  );
  const seen = new Set<string>();
  for (const [i, choices] of combinations.entries()) {
    const task = await service.waitForEnd(tasks[i]!.id);
    expect(task, JSON.stringify(choices)).toMatchObject({ status: 'succeeded', input: choices, warnings: [] });
    seen.add(task.videos![0]!.sha256);
    const frames = await framesOf(task.videos![0]!.link);
    expect(frames).toHaveLength(16);
    const changes = frames.slice(1).map((frame, t) => psnr(frame.data, frames[t]!.data));
    expect(Math.min(...changes), JSON.stringify(choices)).toBeGreaterThan(18); // no jumps, as noise would make
    expect(psnr(frames[15]!.data, frames[0]!.data), JSON.stringify(choices)).toBeLessThan(30); // and it moves
  }
  expect(seen.size).toBe(combinations.length); // and each is another clip
}, 90_000);

test('eight simultaneous requests all succeed', async () => {
  const tasks = await Promise.all(Array.from({ length: 8 }, (_, seed) => service.post({ seed, ...TINY })));
  for (const { id } of tasks) expect((await service.waitForEnd(id)).status).toBe('succeeded');
}, 60_000);

test('the API counts requests, tasks, stages and webhooks for Prometheus', async () => {
  const receiver = await listen(new Hono().post('/', (c) => c.text('received')));
  await service.make({ ...TINY, webhook_url: receiver.url });
  let counted: string[];
  do {
    const text = await (await fetch(`${service.url}/metrics`)).text();
    counted = text.split('\n').filter((line) => line.startsWith('img2vid_') && !line.endsWith(' 0'));
  } while (!counted.some((line) => line.startsWith('img2vid_webhook_lag_seconds_count')));
  for (const name of [
    'http_requests_total{method="POST",route="/img2vid",status="202"}',
    'tasks_ended_total{status="succeeded",code=""}',
    'stage_seconds_count{stage="waiting"}',
    'webhook_attempts_total{outcome="delivered"}',
    'runpod_requests_total{operation="submit",outcome="ok"}',
    'store_seconds_count{operation="insert"}',
  ])
    expect(counted.join('\n')).toContain(`img2vid_${name} `);
  await receiver.close();
});

describe('kill -9', () => {
  test('a task succeeds though the API is killed between the POST and the result', async () => {
    const { id } = await service.post({ W: 256, H: 192 });
    process.kill(service.pids().api, 'SIGKILL');
    expect(await service.waitForEnd(id)).toMatchObject({ status: 'succeeded' });
  });

  test('another worker completes the job of a killed one, and nothing is left over', async () => {
    const { id } = await service.post({ T: 100, W: 512, H: 384, fps: 30 });
    while ((await (await fetch(`${service.url}/status?id=${id}`)).json()).status !== 'running');
    process.kill(service.pids().worker, 'SIGKILL');
    const task = await service.waitForEnd(id);
    expect(task).toMatchObject({ status: 'succeeded' });
    const files = readdirSync(join(service.dataDir, 'bucket/objects/tasks', id), { recursive: true }).map(String);
    expect(files.filter((name) => name.endsWith('.mp4'))).toHaveLength(1);
    expect(await readdir(join(service.dataDir, 'bucket/tmp'))).toEqual([]);
  }, 60_000);

  test('a worker that dies soon after its start is started again after a longer pause', async () => {
    const logged = vi.spyOn(console, 'error').mockImplementation(() => undefined);
    const pauses = () =>
      logged.mock.calls.map(([text]) => Number(/^worker: .*; restarting in (\S+) s$/.exec(text)?.[1]));
    let since = 0;
    for (const deaths of [1, 2]) {
      const { worker } = service.pids();
      since = performance.now();
      process.kill(worker, 'SIGKILL');
      await vi.waitFor(() => expect(service.pids().worker).not.toBe(worker), 30_000);
      expect(pauses()).toHaveLength(deaths);
    }
    const [first, second] = pauses();
    expect(second).toBe(2 * first!);
    expect(performance.now() - since).toBeGreaterThanOrEqual(1000 * second!);
    logged.mockRestore();
  }, 60_000);
});
