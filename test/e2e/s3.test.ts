import { readdir } from 'node:fs/promises';
import { ListObjectsV2Command } from '@aws-sdk/client-s3';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type S3Options, s3Bucket, s3Client } from '../../core/bucket/s3.ts';
import { camera } from '../../handler/models/camera.ts';
import { runJob } from '../../handler/pipeline.ts';
import { type LocalS3, s3Server, skipped, startS3 } from '../../infra/simulators/s3-server.ts';
import { hasBrowser, launchBrowser, playing } from '../../infra/tools/browser.ts';
import { type LocalTestService, PICTURE_PATH, startService } from './local-service.ts';

describe.skipIf(!s3Server)(`with a real S3 store${skipped}`, () => {
  let store: LocalS3;
  let options: S3Options & { endpoint: string };
  beforeAll(async () => {
    store = await startS3();
    options = await store.bucket();
  });
  afterAll(() => store?.stop());

  const keys = async (prefix: string) => {
    const { Contents = [] } = await s3Client(options).send(
      new ListObjectsV2Command({ Bucket: options.bucket, Prefix: prefix }),
    );
    return Contents.map(({ Key }) => Key!.slice(prefix.length)).sort();
  };

  test('twenty workers that finish one task at the same time leave one result and one set of files, and report the same', async () => {
    const bucket = s3Bucket(options);
    const task_id = '01a206ec-8c81-72d2-88c2-373f04644e4a';
    const image_key = `tasks/${task_id}/upload`;
    const still = sharp({ create: { width: 90, height: 70, channels: 3, background: '#484' } });
    await bucket.put(image_key, await still.png().toBuffer());
    const input = {
      ...{ task_id, model: 'camera', image_key, H: 64, W: 64, T: 2, fps: 6, seed: 3, steps: 2, cond_aug: 0.02 },
      ...{ decoding_t: 2, motion_bucket_id: 127, num_cols: 2, image_index: 1, fit: 'cover' },
      ...{ sampler: 'DPMPP2MSampler', discretization: 'LegacyDDPMDiscretization', guider: 'IdentityGuider' },
    };
    const worker = {
      ...({ modelName: 'camera', model: camera, bucket, bridges: [], allowPrivate: false } as const),
      ...{ stillTimeout: 1000, framesDir: undefined },
    };
    const { signal } = new AbortController();
    const jobs = Array.from({ length: 20 }, (_, i) =>
      runJob(input, worker, { jobId: `job-${i % 15}`, progress() {}, signal }),
    );
    const [first, ...others] = await Promise.all(jobs);
    const { timings_ms: _, ...same } = first!;
    for (const output of others) expect(output).toMatchObject(same);
    const winner = first!.videos[0]!.key.split('/')[2]!;
    const ofVideos = [1, 2].flatMap((n) => ['mp4', 'jpg', 'webp'].map((type) => `video-${n}.${type}`));
    const made = ['grid.mp4', ...ofVideos].map((name) => `${winner}/${name}`);
    expect(await keys(`tasks/${task_id}/`)).toEqual(
      [...made, 'result.json', 'still.jpg', 'still.png', 'upload'].sort(),
    );
  }, 60_000);

  describe('the whole service', () => {
    let service: LocalTestService;
    beforeAll(async () => {
      service = await startService({
        ...{ BUCKET_NAME: options.bucket, BUCKET_ENDPOINT_URL: options.endpoint, BUCKET_REGION: options.region },
        ...{ BUCKET_ACCESS_KEY_ID: options.accessKeyId, BUCKET_SECRET_ACCESS_KEY: options.secretAccessKey },
      });
    }, 60_000);
    afterAll(() => service?.stop());

    test('a prompt becomes an MP4 in the store, whose link serves it and parts of it, and is refused when it is changed', async () => {
      const task = await service.make({ prompt: 'a lighthouse', H: 128, W: 128, T: 4, fps: 6, steps: 2 });
      expect(task.status).toBe('succeeded');
      const { link, download_link, bytes, poster, preview } = task.videos![0]!;
      const shown = async (link: string) => {
        const { status, headers } = await fetch(link);
        return [status, headers.get('content-type'), headers.get('content-disposition')];
      };
      const name = `a-lighthouse-${task.input.seed}`;
      expect(await shown(link)).toEqual([200, 'video/mp4', `inline; filename="${name}.mp4"`]);
      expect(await shown(download_link)).toEqual([200, 'video/mp4', `attachment; filename="${name}.mp4"`]);
      expect(await shown(poster!.link)).toEqual([200, 'image/jpeg', `inline; filename="${name}.jpg"`]);
      expect(await shown(preview!.link)).toEqual([200, 'image/webp', `inline; filename="${name}.webp"`]);
      const { preview: small, ...still } = task.still!;
      expect(await shown(still.link)).toEqual([200, 'image/png', 'inline; filename="a-lighthouse-still.png"']);
      expect(await shown(small!.link)).toEqual([200, 'image/jpeg', 'inline; filename="a-lighthouse-still.jpg"']);
      const forged = new URL(download_link);
      forged.searchParams.set('response-content-disposition', 'attachment; filename="other.exe"');
      expect((await fetch(forged)).status).toBe(403);
      expect(link.startsWith(`${options.endpoint}/${options.bucket}/tasks/${task.id}/`)).toBe(true);
      const whole = await fetch(link);
      expect(whole.headers.get('content-type')).toBe('video/mp4');
      expect(Buffer.from(await whole.arrayBuffer())).toHaveLength(bytes);
      const part = await fetch(link, { headers: { range: 'bytes=4-7' } });
      expect([part.status, await part.text()]).toEqual([206, 'ftyp']);
      const other = new URL(link);
      other.pathname = other.pathname.replace('video-1', 'video-2');
      expect((await fetch(other)).status).toBe(403);
      other.search = '';
      expect((await fetch(other)).status).toBe(403);
      expect(await readdir(service.dataDir)).not.toContain('bucket');

      const again = await service.make({ still_of: task.id, image_index: 2, H: 128, W: 128, T: 2, steps: 2 });
      expect(again.status).toBe('succeeded');
      expect((await fetch(`${service.url}/files/tasks/${task.id}/still.png`)).status).toBe(404);
    }, 60_000);

    test.skipIf(!hasBrowser)(
      'the page plays a clip from the store',
      async () => {
        const browser = await launchBrowser();
        try {
          const page = await browser.newPage();
          const faults: string[] = [];
          page.on('console', (message) => message.type() === 'error' && faults.push(message.text()));
          await page.goto(service.url);
          await page.waitForSelector('#compose', { state: 'visible' }); // its scripts have run
          await page.setInputFiles('#image', PICTURE_PATH);
          await page.click('label:has([value="other"])');
          for (const [name, value] of Object.entries({ W: 128, H: 128, T: 24 }))
            await page.fill(`#setting-${name}`, String(value));
          const made = page.waitForResponse((response) => response.status() === 202);
          await page.click('#make');
          const { id } = await (await made).json();
          await page.waitForSelector(`[id="${id}"] video`); // until then the first video is that of an earlier task
          expect(new URL((await playing(page)).src).origin).toBe(options.endpoint);
          expect(faults).toEqual([]);
        } finally {
          await browser.close();
        }
      },
      60_000,
    );
  });
});
