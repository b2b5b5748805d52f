import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { DAY } from '../core/time.ts';
import { testService } from '../test/support/test-api.ts';

test('a task that was created while the clock was years ahead runs after a restart', async () => {
  const DATA_DIR = await mkdtemp(join(tmpdir(), 'clock-'));
  onTestFinished(() => rm(DATA_DIR, { recursive: true }));
  const before = await testService({ DATA_DIR });
  before.faults.runpod = () => new Response('down', { status: 503 });
  before.clock.ahead = 3650 * DAY;
  const { id } = await (await before.post({ prompt: 'x' })).json();
  await before.close();

  const after = await testService({ DATA_DIR });
  onTestFinished(() => after.close());
  const job = await after.take(id);
  after.report(job.id, { output: await after.finish(id, job.id) });
  expect(await after.until(id, ({ status }) => status === 'succeeded')).toMatchObject({ id });
});
