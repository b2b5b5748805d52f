import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Hono } from 'hono';
import { linkContract } from '../../handler/bucket/contract.ts';
import { diskBucket } from '../../handler/bucket/disk.ts';
import { Problem, renderProblem } from '../problem.ts';
import { listen } from '../testing.ts';
import { files } from './files.ts';

linkContract('a folder whose links the API serves', async (now) => {
  const folder = await mkdtemp(join(tmpdir(), 'files-'));
  const app = new Hono().onError((error, c) => {
    if (error instanceof Problem) return renderProblem(c, error);
    throw error;
  });
  const server = await listen(app);
  const bucket = await diskBucket(folder, { publicUrl: server.url, now });
  app.route('/', files(bucket));
  return {
    bucket,
    async close() {
      await server.close();
      await rm(folder, { recursive: true });
    },
  };
});
