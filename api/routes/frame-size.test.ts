/** The size of the frames where a request does not give it, over HTTP: for each model, source and shape of a picture. */
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { ModelName } from '../../core/presets.ts';
import type { PresentedTask } from '../../core/responses.ts';
import { type TestService, testService } from '../../test/support/test-api.ts';

const services: Partial<Record<ModelName, TestService>> = {};
beforeAll(async () => {
  for (const model of ['camera', 'svd_xt'] as const)
    services[model] = await testService({ MODEL: model, PRICE_PER_GPU_SECOND: '1' });
});
afterAll(() => Promise.all(Object.values(services).map((service) => service.close())));

/** Each shape's size as a picture, and the W×H of its clip by each model. */
const SHAPES = {
  wide: { picture: [1600, 900], camera: '848×480', svd_xt: '1024×576' },
  'of the widest phone': { picture: [900, 1600], camera: '480×848', svd_xt: '576×1024' },
  portrait: { picture: [600, 900], camera: '512×768', svd_xt: '640×960' },
  landscape: { picture: [800, 600], camera: '768×576', svd_xt: '832×640' },
  square: { picture: [700, 700], camera: '640×640', svd_xt: '768×768' },
  panorama: { picture: [1200, 300], camera: '896×384', svd_xt: '1216×512' },
  extreme: { picture: [40, 400], camera: '384×896', svd_xt: '512×1216' },
  'within 5 % of the model’s own ratio': { picture: [1700, 1000], camera: '848×480', svd_xt: '1024×576' },
} as const;
type Shape = (typeof SHAPES)[keyof typeof SHAPES];

const png = ([width, height]: readonly [number, number]) =>
  sharp({ create: { width, height, channels: 3, background: '#369' } })
    .png()
    .toBuffer();
const sizeOf = ({ input: { W, H } }: Pick<PresentedTask, 'input'>) => `${W}×${H}`;

async function upload({ url }: TestService, bytes: Uint8Array, fields: Record<string, string> = {}, query = '') {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  body.append('image', new Blob([bytes as BlobPart]));
  return (await fetch(`${url}/img2vid${query}`, { method: 'POST', body })).json();
}
const post = async (service: TestService, body: object, init = {}) => (await service.post(body, init)).json();
const image_url = 'https://example.com/a.png';
async function estimate({ url }: TestService, body: object) {
  const headers = { 'content-type': 'application/json' };
  const response = await fetch(`${url}/img2vid?dry_run=1`, { method: 'POST', headers, body: JSON.stringify(body) });
  return (await response.json()).cost_estimate;
}

for (const model of ['camera', 'svd_xt'] as const) {
  describe(`a clip of ${model} has the aspect ratio of its source:`, () => {
    let service: TestService;
    beforeAll(() => {
      service = services[model]!;
    });

    const estimates = new Set<string>();

    test.each(Object.entries(SHAPES))('%s', async (_, { picture, [model]: size }: Shape) => {
      const [width, height] = picture;
      const estimated = await upload(service, await png(picture), {}, '?dry_run=1');
      const prompted = await post(service, { prompt: `a harbour --ar ${width}:${height} --v 6` });
      for (const task of [estimated, prompted]) expect(sizeOf(task)).toBe(size);

      estimates.add(JSON.stringify(estimated.cost_estimate));
      const { W, H } = estimated.input;
      const exact = await estimate(service, { image_url, W, H });
      expect(exact.amount).toBeLessThanOrEqual(estimated.cost_estimate.amount);
    });

    test('the estimate is the same for every shape and for a picture at a URL', async () => {
      estimates.add(JSON.stringify(await estimate(service, { image_url })));
      expect(estimates.size).toBe(1);
    });

    // Their pictures are measured as those of dry runs are, each by a process of its own.
    test('an upload, the picture of another task, and the job have the same size', async () => {
      const { picture, [model]: size } = SHAPES.portrait;
      const bytes = await png(picture);
      const uploaded = await upload(service, bytes);
      expect(uploaded.input).not.toHaveProperty('aspect_ratio');
      await service.bucket.put(`tasks/${uploaded.id}/still.png`, bytes);
      const again = await post(service, { still_of: uploaded.id });
      for (const task of [uploaded, again]) expect(sizeOf(task)).toBe(size);

      const { input } = await service.take(uploaded.id);
      expect(`${input.W}×${input.H}`).toBe(size);
      expect(input).not.toHaveProperty('aspect_ratio');
    });

    test('a prompt without a ratio has the model’s own size', async () => {
      for (const prompt of ['a harbour', 'a harbour --ar wide', 'a harbour --ar 0:1', 'a harbour --arrow 1:1'])
        expect(sizeOf(await post(service, { prompt }))).toBe(SHAPES.wide[model]);
    });

    test('aspect_ratio replaces the ratio of the source', async () => {
      for (const [aspect_ratio, { [model]: size }] of [
        ['16:9', SHAPES.wide],
        ['9:16', SHAPES['of the widest phone']],
        [' 1:1 ', SHAPES.square],
        ['66.5:100', SHAPES.portrait],
        ['21:9', SHAPES.panorama],
      ] as const) {
        for (const source of [{ prompt: 'x --ar 4:5' }, { image_url }])
          expect(sizeOf(await post(service, { ...source, aspect_ratio }))).toBe(size);
      }
      const uploaded = await upload(service, await png([40, 400]), { aspect_ratio: '21:9' });
      expect(sizeOf(uploaded)).toBe(SHAPES.panorama[model]);
    });
  });
}

describe('one side of two', () => {
  test.each([
    [{ W: 512 }, [900, 600], '512×320'],
    [{ H: 512 }, [900, 600], '768×512'],
    [{ W: 256 }, [40, 400], '256×576'],
    [{ H: 2048 }, [400, 40], '2048×2048'],
    [{ W: 64 }, [400, 40], '64×64'],
    [{ H: 480 }, [1600, 900], '848×480'], // the model's own side, and so its own other one
    [{ H: 480 }, [600, 600], '512×480'],
  ] as const)('%j of a picture of %j gives %s', async (given, picture, size) => {
    const bytes = await png(picture);
    const fields = Object.fromEntries(Object.entries(given).map(([name, value]) => [name, String(value)]));
    expect(sizeOf(await upload(services.camera!, bytes, fields))).toBe(size);
    const prompt = `x --ar ${picture.join(':')}`;
    expect(sizeOf(await post(services.camera!, { prompt, ...given }))).toBe(size);
  });
});

test('a picture that EXIF turns counts as it is seen', async () => {
  const lying = sharp({ create: { width: 900, height: 600, channels: 3, background: '#369' } });
  const bytes = await lying.withMetadata({ orientation: 6 }).jpeg().toBuffer();
  expect(sizeOf(await upload(services.camera!, bytes))).toBe('512×768');
});

test('W and H go before aspect_ratio, with a warning', async () => {
  const { input, warnings } = await post(services.camera!, { prompt: 'x', W: 64, H: 128, aspect_ratio: '16:9' });
  expect(input).toMatchObject({ W: 64, H: 128 });
  expect(input).not.toHaveProperty('aspect_ratio');
  expect(warnings).toEqual([{ field: 'aspect_ratio', message: 'ignored, because W and H are given' }]);
});

test('a prompt that is drawn with another aspect ratio has a warning', async () => {
  const warned = async (fields: object) => (await post(services.camera!, fields)).warnings;
  const message = 'the prompt has another --ar: its picture is drawn with that one, and then fitted to the frame';
  expect(await warned({ prompt: 'x --ar 9:16', aspect_ratio: '16:9' })).toEqual([{ field: 'aspect_ratio', message }]);
  for (const aspect_ratio of ['auto', '9:16', '18:32'])
    expect(await warned({ prompt: 'x --ar 9:16', aspect_ratio })).toEqual([]);
  for (const prompt of ['x', 'x --ar wide']) expect(await warned({ prompt, aspect_ratio: '16:9' })).toEqual([]);
});

test('SVD warns of a size that it was not trained with only where the request asks for it', async () => {
  const service = services.svd_xt!;
  expect((await upload(service, await png([600, 900]))).warnings).toEqual([]);
  const { warnings } = await upload(service, await png([600, 900]), { W: '640' });
  expect(warnings).toEqual([{ field: 'W', message: 'the model was trained on H 576, W 1024' }]);
});

test('a request with the input of a task has the same size', async () => {
  const service = services.camera!;
  const bytes = await png([600, 900]);
  const { input } = await upload(service, bytes);
  const fields = Object.fromEntries(Object.entries(input).map(([name, value]) => [name, String(value)]));
  expect((await upload(service, bytes, fields)).input).toEqual(input);
  const own = await post(service, { prompt: 'x --ar 9:16' }); // no multiples of 64
  expect((await post(service, own.input)).input).toEqual(own.input);
});

describe('the picture of an image_url', () => {
  const request = { image_url, W: 256 };

  test('is not known yet: the task shows aspect_ratio, and the worker chooses', async () => {
    const service = services.camera!;
    const { input, id } = await post(service, { ...request, W: undefined });
    expect(input).toMatchObject({ aspect_ratio: 'auto' });
    for (const side of ['W', 'H']) expect(input).not.toHaveProperty(side);
    const job = await service.take(id);
    expect(job.input).toMatchObject({ aspect_ratio: 'auto' });
    for (const side of ['W', 'H']) expect(job.input).not.toHaveProperty(side);
  });

  test('gives the task its numbers as soon as the worker reports them', async () => {
    const service = services.camera!;
    const { id } = await post(service, request);
    expect((await service.status(id)).input).toMatchObject({ aspect_ratio: 'auto', W: 256 });
    const job = await service.take(id);
    const size = { H: 384, W: 256 };
    service.report(job.id, { status: 'IN_PROGRESS', output: { stage: 'loading', progress: 0.05, size } });
    const running = await service.until(id, ({ status }) => status === 'running');
    expect(running.input).toMatchObject(size);
    expect(running.input).not.toHaveProperty('aspect_ratio');
  });

  test.each([
    { H: 0, W: 0 },
    { H: 0, W: 256 },
    { H: 2056, W: 256 },
  ])('is not taken from a report of %j', async (size) => {
    const service = services.camera!;
    const { id } = await post(service, request);
    const job = await service.take(id);
    service.report(job.id, { status: 'IN_PROGRESS', output: { stage: 'loading', progress: 0.05, size } });
    const { input } = await service.until(id, ({ status }) => status === 'running');
    expect(input).toMatchObject({ aspect_ratio: 'auto', W: 256 });
    expect(input).not.toHaveProperty('H');
  });

  test('gives a finished task the size of its video', async () => {
    const service = services.camera!;
    const { id } = await post(service, request);
    const job = await service.take(id);
    const output = await service.finish(id, job.id);
    const videos = output.videos.map((video) => ({ ...video, width: 256, height: 384 }));
    service.report(job.id, { output: { ...output, videos } });
    const done = await service.until(id, ({ status }) => status === 'succeeded');
    expect(done.input).toMatchObject({ H: 384, W: 256 });
    expect(done.input).not.toHaveProperty('aspect_ratio');
    expect(done.videos).toMatchObject([{ width: 256, height: 384 }]);
  });

  test('does not matter to an idempotency key', async () => {
    const service = services.camera!;
    const init = { headers: { 'content-type': 'application/json', 'idempotency-key': 'by-url' } };
    const { id } = await post(service, request, init);
    const job = await service.take(id);
    const size = { H: 384, W: 256 };
    service.report(job.id, { status: 'IN_PROGRESS', output: { stage: 'loading', progress: 0.05, size } });
    await service.until(id, ({ status }) => status === 'running');
    const response = await service.post(request, init);
    expect(response.headers.get('idempotency-replayed')).toBe('true');
    expect(await response.json()).toMatchObject({ id, input: size });
    const explicit = await service.post({ ...request, aspect_ratio: 'auto' }, init);
    expect(explicit.status).toBe(409); // other parameters
  });
});
