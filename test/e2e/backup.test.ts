/** The commands of docs/deploy/backup.md: a backup of the running service, and its restoration. */
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, stat, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, onTestFinished, test } from 'vitest';
import { MINUTE } from '../../core/time.ts';
import { testService } from '../support/test-api.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

test('a backup of the running service has its tasks and files, and a service on the restored folder goes on', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'backup-'));
  onTestFinished(() => rm(folder, { recursive: true }));
  await symlink(join(ROOT, 'node_modules'), join(folder, 'node_modules'));
  const page = await readFile(join(ROOT, 'docs/deploy/backup.md'), 'utf8');
  const run = (kind: string) => {
    const [, code = ''] = new RegExp(`^\`\`\`bash ${kind}\\n(.*?)^\`\`\`$`, 'ms').exec(page)!;
    return promisify(execFile)('bash', ['-euo', 'pipefail', '-c', code], { cwd: folder });
  };

  const before = await testService({ DATA_DIR: join(folder, 'data') });
  const create = async () => (await (await before.post({ prompt: 'x' })).json()).id as string;
  const [finished, active] = [await create(), await create()];
  const job = await before.take(finished);
  before.report(job.id, { output: await before.finish(finished, job.id) });
  await before.until(finished, ({ status }) => status === 'succeeded');
  let isOver = false;
  const creating = (async () => {
    while (!isOver) await create();
  })();
  await run('backup');
  isOver = true;
  await creating;
  const later = await create();
  expect((await stat(join(folder, 'backup/tasks.db'))).mode & 0o77).toBe(0);
  await expect(run('backup')).rejects.toThrow(/already exists/); // an older copy is not overwritten
  await before.close();
  await run('restore');

  const after = await testService({ DATA_DIR: join(folder, 'data') });
  onTestFinished(() => after.close());
  const { status, videos } = await after.status(finished);
  expect(status).toBe('succeeded');
  expect(await (await fetch(videos![0]!.link)).text()).toBe('not really a video');
  expect((await fetch(`${after.url}/status?id=${later}`)).status).toBe(404);
  after.clock.ahead += 2 * MINUTE; // then the job counts as lost
  const next = await after.take(active);
  after.report(next.id, { output: await after.finish(active, next.id) });
  await after.until(active, ({ status }) => status === 'succeeded');
});
