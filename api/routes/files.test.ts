import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Hono } from 'hono';
import { diskBucket } from '../../core/bucket/disk.ts';
import { linkContract } from '../../test/contracts/bucket-contract.ts';
import { listen } from '../../test/support/test-api.ts';
import { Problem, renderProblem } from '../http/problem.ts';
import type { Services } from '../services.ts';
import { files } from './files.ts';

linkContract('a folder whose links the API serves', async (now) => {
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
    async close() {
      await server.close();
      await rm(folder, { recursive: true });
    },
  };
});
