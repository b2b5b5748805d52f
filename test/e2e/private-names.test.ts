/** Names that resolve to addresses which nobody may reach, as image_url and as webhook_url, through the API and a worker. */
import { isIP } from 'node:net';
import { expect, onTestFinished, test, vi } from 'vitest';
import { JobError } from '../../core/job.ts';
import { camera } from '../../handler/models/camera.ts';
import { runJob } from '../../handler/pipeline.ts';
import { createStageTimer } from '../../handler/stage-timer.ts';
import { mockOwnAddresses, PUBLIC, resolveName } from '../support/dns-mock.ts';
import { refusedHosts } from '../support/malicious-urls.ts';
import { testService } from '../support/test-api.ts';

const SOON = { interval: 20 };
vi.mock('node:dns', { spy: true });
vi.mock('node:os', { spy: true });

test('a name that resolves to a forbidden address is reached by no picture and no webhook', async () => {
  const own = mockOwnAddresses();
  const service = await testService({ MAX_OPEN_TASKS: '1000', SUBMISSIONS_PER_MINUTE: '1000' });
  onTestFinished(service.close);
  const addresses = [...refusedHosts.map((host) => host.replace(/^\[|\]$/g, '')), ...own].filter((host) => isIP(host));
  expect(addresses.length).toBeGreaterThan(80);
  const worker = { modelName: 'camera', model: camera, bucket: service.bucket, bridges: [] } as const;

  /** Of each name: one forbidden address, or a public one before it. */
  const answers = addresses.map((address, i) => (i % 2 === 0 ? [address] : [PUBLIC, address]));
  resolveName.mockImplementation((name, _options, callback) => {
    const answer = answers[Number.parseInt(name.slice(1), 10)]!;
    callback(
      null,
      answer.map((address) => ({ address, family: isIP(address) })),
    );
  });

  const check = async (host: string) => {
    const urls = { image_url: `http://${host}/`, webhook_url: `https://${host}/` };
    const { id } = await (await service.post({ H: 64, W: 64, T: 1, steps: 1, ...urls })).json();
    const job = await service.take(id);
    const { signal } = new AbortController();
    const error = await runJob(
      job.input,
      { ...worker, allowPrivate: false, stillTimeout: 1000, framesDir: undefined },
      { jobId: job.id, progress() {}, signal, timer: createStageTimer() },
    ).catch((error) => error);
    expect(error).toBeInstanceOf(JobError);
    expect(error.message).toBe(`image_url: ${host} is not a public address`);
    service.report(job.id, { error: JSON.stringify(error.data) });
    await service.until(id, ({ status }) => status === 'failed');
    await vi.waitFor(async () => {
      const [delivery] = await service.store.listDeliveries({ owner: 'local', task: id, limit: 1 });
      expect(delivery, host).toMatchObject({ attempts: 1, status_code: null, error: 'the address is not public' });
    }, SOON);
  };
  const names = answers.map((_, i) => `n${i}.example.com`);
  while (names.length > 0) await Promise.all(names.splice(0, 15).map(check));
});
