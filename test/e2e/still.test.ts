/** A prompt through the API, a worker and a bridge, step by step: what a caller sees of the input image while the job runs. */
import sharp from 'sharp';
import { expect, onTestFinished, test } from 'vitest';
import { camera } from '../../handler/models/camera.ts';
import { runJob } from '../../handler/pipeline.ts';
import { testService } from '../support/test-api.ts';
import { COLOURS, colourOf, startBridge } from '../support/test-bridge.ts';

test('a caller sees the bridge’s progress and the input image while the job runs, and another of the four pictures costs nothing', async () => {
  const service = await testService();
  onTestFinished(service.close);
  let clock = 0;
  let id = '';
  const bridge = await startBridge('legnext', {
    duration: 100,
    now: () => clock,
    async intervene(call, count) {
      if (call !== 'status') return undefined;
      if (count > 1) await service.until(id, ({ stage, progress }) => stage === 'still' && progress > 0); // from the previous poll
      clock = count === 1 ? 50 : 100;
      return undefined;
    },
  });
  onTestFinished(bridge.close);
  const files = { fetches: 0 };

  /** The model opens after the caller has seen the input image. */
  const open: typeof camera.open = async (request) => {
    const running = await service.until(id, ({ still }) => still);
    expect(running).toMatchObject({ status: 'running', progress: 0.4 });
    const png = await fetch(running.still!.link);
    expect(png.headers.get('content-type')).toBe('image/png');
    files.fetches++;
    return camera.open(request);
  };
  const worker = {
    ...({ modelName: 'camera', model: { ...camera, open }, bucket: service.bucket } as const),
    ...{ bridges: [bridge.bridge], allowPrivate: false, stillTimeout: 15_000, framesDir: undefined },
  };
  async function make(body: object) {
    id = (await (await service.post({ H: 64, W: 64, T: 2, steps: 2, ...body })).json()).id;
    const job = await service.take(id);
    const output = await runJob(job.input, worker, {
      jobId: job.id,
      signal: new AbortController().signal,
      progress: (progress) => service.report(job.id, { status: 'IN_PROGRESS', output: progress }),
    });
    service.report(job.id, { output });
    const task = await service.until(id, ({ status }) => status === 'succeeded');
    const still = Buffer.from(await (await fetch(task.still!.link)).arrayBuffer());
    expect(await sharp(still).metadata()).toMatchObject({ format: 'png', width: 64, height: 64 });
    return { task, colour: await colourOf(still) };
  }

  const first = await make({ prompt: 'a lighthouse', image_index: 2 });
  expect(first.colour).toBe(COLOURS[1]);
  expect(files.fetches).toBe(1);
  worker.model = camera;
  expect((await make({ still_of: first.task.id, image_index: 4 })).colour).toBe(COLOURS[3]);
  expect(bridge.paid()).toBe(1);
});
