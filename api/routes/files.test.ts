import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Hono } from 'hono';
import { expect, test } from 'vitest';
import { diskBucket } from '../../core/bucket/disk.ts';
import { signLink } from '../../core/link-signature.ts';
import { linkContract } from '../../test/contracts/bucket-contract.ts';
import { listen } from '../../test/support/test-api.ts';
import { Problem, renderProblem } from '../http/problem.ts';
import type { Services } from '../services.ts';
import { files } from './files.ts';

test('a link that an earlier version signed still opens, and an empty file name counts as none', async () => {
  const { bucket, folder, close } = await open(Date.now);
  try {
    const key = 'tasks/1/job/video-1.mp4';
    await bucket.put(key, 'a film');
    const expires = Math.floor(Date.now() / 1000) + 60;
    const signature = signLink(await readFile(join(folder, 'link-secret')), key, expires);
    const { origin } = new URL(await bucket.link(key, expires));
    const link = `${origin}/files/${key}?expires=${expires}&signature=${signature}`;
    for (const suffix of ['', '&filename=', '&filename=&download=']) {
      const response = await fetch(link + suffix);
      expect(response.status).toBe(200);
      expect(response.headers.get('content-disposition')).toBe('inline; filename="video-1.mp4"');
      expect(await response.text()).toBe('a film');
    }
    for (const suffix of ['&filename=a.mp4', '&download=1']) expect((await fetch(link + suffix)).status).toBe(403);
  } finally {
    await close();
  }
});

linkContract('a folder whose links the API serves', open);

async function open(now: () => number) {
  const folder = await mkdtemp(join(tmpdir(), 'files-'));
  const app = new Hono().onError((error, c) => {
    if (error instanceof Problem) return renderProblem(c, error);
    throw error;
  });
  const server = await listen(app);
  const bucket = await diskBucket(folder, { publicUrl: server.url, now });
  const respond = files.handle({ disk: bucket } as Services)!;
  app.get(String(files.path), (c) => respond(c, {}));
  return {
    bucket,
    folder,
    async close() {
      await server.close();
      await rm(folder, { recursive: true });
    },
  };
}
