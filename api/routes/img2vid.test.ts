import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { StorageError } from '../../core/bucket/bucket.ts';
import type { JobInput } from '../../core/job.ts';
import type { ModelName } from '../../core/presets.ts';
import { parseRequest } from '../../core/request.ts';
import { type TestService, testService } from '../../test/support/test-api.ts';

let service: TestService;
beforeAll(async () => {
  service = await testService();
});
afterAll(() => service.close());

const png = () =>
  sharp({ create: { width: 96, height: 64, channels: 3, background: '#369' } })
    .png()
    .toBuffer();
const post = (body: BodyInit, type?: string) =>
  fetch(`${service.url}/img2vid`, { method: 'POST', body, ...(type && { headers: { 'content-type': type } }) });
const form = (fields: Record<string, string | Blob>) => {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) data.append(name, value);
  return data;
};
const blob = (bytes: Uint8Array | string) => new Blob([bytes as BlobPart]);
const objects = () => readdir(join(service.folder, 'bucket/objects/tasks')).catch(() => []);

test('an unreachable bucket is 503 for requests that need it, without details', async () => {
  const { id } = await (await service.post({ prompt: 'x' })).json();
  service.faults.bucket = new StorageError(
    'the bucket’s store at secret.example.com can’t be reached',
    'ECONNRESET',
    5,
  );
  try {
    for (const response of [await post(form({ image: blob(await png()) })), await service.post({ still_of: id })]) {
      expect([response.status, response.headers.get('retry-after')]).toEqual([503, '5']);
      const text = await response.text();
      expect(JSON.parse(text)).toMatchObject({ code: 'unavailable' });
      expect(text).not.toContain('secret');
    }
    expect((await service.post({ prompt: 'y' })).status).toBe(202); // it needs nothing of the bucket yet
  } finally {
    delete service.faults.bucket;
  }
});

describe('a task is created', () => {
  test('JSON creates a task: 202, its URL, and every parameter resolved', async () => {
    const response = await service.post({ prompt: '  a lighthouse ', T: 5 });
    const task = await response.json();
    expect(response.status).toBe(202);
    expect(response.headers.get('location')).toBe(`/status?id=${task.id}`);
    expect(task.id).toMatch(/^[\da-f]{8}-[\da-f]{4}-7/);
    expect(task).toMatchObject({ status: 'queued', progress: 0, model: 'camera', warnings: [] });
    expect(task.input).toEqual({
      prompt: 'a lighthouse',
      H: 480,
      W: 848,
      T: 5,
      cond_aug: 0.02,
      seed: expect.any(Number),
      decoding_t: 5,
      fps: 24,
      motion_bucket_id: 127,
      num_cols: 1,
      steps: 12,
      sampler: 'EulerEDMSampler',
      s_churn: 0,
      s_tmin: 0,
      s_tmax: 999,
      s_noise: 1,
      discretization: 'EDMDiscretization',
      sigma_min: 0.002,
      sigma_max: 700,
      rho: 7,
      guider: 'LinearPredictionGuider',
      max_cfg_scale: 2.5,
      min_guidance_scale: 1,
      image_index: 1,
      fit: 'cover',
      speed: 'exact',
    });
  });

  test('the camera knows one speed: another changes nothing, with a warning', async () => {
    const { input, warnings } = await (await service.post({ prompt: 'x', seed: 1, speed: 'fast' })).json();
    expect(input).toEqual((await (await service.post({ prompt: 'x', seed: 1 })).json()).input);
    expect(input.speed).toBe('exact');
    expect(warnings).toEqual([{ field: 'speed', message: 'the model camera does not use it' }]);
  });

  test('a draft is AnimateLCM’s parameters for svd_xt, and its job names the UNet; other speeds name none', async () => {
    const other = await testService({ MODEL: 'svd_xt' });
    const make = async (body: object) => {
      const task = await (await other.post({ prompt: 'x', seed: 5, ...body })).json();
      const { task_id: _, ...input } = (await other.take(task.id)).input as JobInput;
      return { task, input };
    };
    const choices = { sampler: 'LCMSampler', discretization: 'LCMDiscretization', guider: 'IdentityGuider' };
    const values = { fps: 7, steps: 4, s_noise: 1, ...choices };
    const { task, input } = await make({ speed: 'draft' });
    expect([task.input, task.warnings]).toMatchObject([{ speed: 'draft', ...values }, []]);
    const same = await make(values);
    expect(input).toEqual({ ...same.input, unet: 'animatelcm_svd_xt' });
    expect(same.input).not.toHaveProperty('unet');
    expect(same.task.warnings).toMatchObject([{ field: 'sampler' }]);
    expect((await make({ speed: 'fast' })).input).not.toHaveProperty('unet');
    await other.close();
  });

  test('a draft keeps parameters of the request, and refuses what it has not', () => {
    const resolve = (values: object, model: ModelName = 'svd_xt') =>
      parseRequest(
        { image_url: 'https://example.com/a.png', speed: 'draft', ...values },
        { limits: { maxFrames: 100, maxFps: 120 }, model, hasImage: false, seed: 1 },
      );
    const { input, warnings } = resolve({ steps: 9, guider: 'LinearPredictionGuider', max_cfg_scale: 1.2, fps: 6 });
    const guidance = { guider: 'LinearPredictionGuider', min_guidance_scale: 1, max_cfg_scale: 1.2 };
    expect(input).toMatchObject({ speed: 'draft', steps: 9, sampler: 'LCMSampler', fps: 6, ...guidance });
    expect(warnings).toEqual([{ field: 'steps', message: 'the model was trained for 1 to 8 steps' }]);
    expect(resolve({ ...input }).input).toEqual(input); // it can be sent again
    expect(() => resolve({ steps: 41 })).toThrow('steps: must be a whole number from 1 to 40 with LCMDiscretization');
    for (const model of ['svd', 'svd_xt_1_1'] as const)
      expect(() => resolve({}, model)).toThrow('speed: must be one of exact, fast');
    for (const model of ['camera', 'animatelcm_svd_xt'] as const)
      expect(resolve({}, model)).toMatchObject({ input: { speed: 'exact' }, warnings: [{ field: 'speed' }] });
  });

  test('an urlencoded form creates a task; text becomes numbers, empty fields count as absent', async () => {
    const body = new URLSearchParams({ prompt: 'x', seed: '23', cond_aug: '0.5', s_churn: '1e1', T: '', image: '' });
    const { input } = await (await post(body)).json();
    expect(input).toMatchObject({ seed: 23, cond_aug: 0.5, s_churn: 10, T: 73 });
  });

  test('multipart with a picture creates a task; the job finds the picture in the bucket', async () => {
    const bytes = await png();
    const response = await post(form({ image: blob(bytes), W: '128', H: '64' }));
    const task = await response.json();
    expect(response.status).toBe(202);
    expect(task.input).toMatchObject({ W: 128, H: 64 });
    expect(task.input).not.toHaveProperty('prompt');
    expect(await service.bucket.get(`tasks/${task.id}/upload`)).toEqual(bytes);
  });

  test('the job has the task and its key, and no webhook URL', async () => {
    const other = await testService({ ALLOW_PRIVATE_URLS: '1' });
    const { id } = await (await other.post({ prompt: 'x', seed: 5, webhook_url: 'http://127.0.0.1:1/hook' })).json();
    const { input } = await other.take(id);
    expect(input).toMatchObject({ task_id: id, model: 'camera', prompt: 'x', seed: 5 });
    expect(JSON.stringify(input)).not.toMatch(/hook|speed/);
    await other.close();
  });

  test('the input that a response contains can be sent again', async () => {
    const { input } = await (await service.post({ prompt: 'x' })).json();
    const again = await service.post(input);
    expect(again.status).toBe(202);
    expect((await again.json()).input).toEqual(input);
  });

  test('numbers may be text, as no-code tools send them; other text is refused', async () => {
    const task = await (
      await service.post({ prompt: 'x', T: '14', cfg_scale: ' 2.50 ', seed: '+7', webhook_url: '' })
    ).json();
    expect(task.errors).toEqual([expect.objectContaining({ field: 'webhook_url' })]);
    const { input } = await (await service.post({ prompt: 'x', T: '14', steps: ' 5 ', seed: '+7' })).json();
    expect(input).toMatchObject({ T: 14, steps: 5, seed: 7 });
    for (const T of ['fourteen', '1,5', '0x10', '', '14 frames']) {
      const { errors } = await (await service.post({ prompt: 'x', T })).json();
      expect(errors).toEqual([{ field: 'T', message: expect.stringMatching(/^must be a whole number .*, not text$/) }]);
    }
  });

  test('names of other services are answered with ours', async () => {
    const { errors } = await (await service.post({ prompt: 'x', width: 512, 'Num-Frames': 9, n: 2, foo: 1 })).json();
    expect(errors).toEqual([
      { field: 'width', message: 'unknown; use W' },
      { field: 'Num-Frames', message: 'unknown; use T' },
      { field: 'n', message: 'unknown; use num_cols' },
      { field: 'foo', message: 'unknown' },
    ]);
  });

  test('of several sources the first is used, and a warning names the others', async () => {
    const task = await (
      await post(form({ prompt: 'x', image_url: 'https://example.com/a.png', image: blob(await png()) }))
    ).json();
    expect(task.input.prompt).toBe('x');
    expect(task.input).not.toHaveProperty('image_url');
    expect(task.warnings.map(({ field }: { field: string }) => field)).toEqual(['image_url', 'image']);
    expect(await objects()).not.toContain(task.id); // the picture is not kept
  });

  test('the still of an earlier task can be animated again', async () => {
    const { id } = await (await service.post({ prompt: 'x', image_index: 3 })).json();
    await service.bucket.put(`tasks/${id}/imagine-1.png`, await png());
    await service.bucket.put(`tasks/${id}/imagine-3.png`, await png());
    const stillKey = async () => {
      const task = await (await service.post({ still_of: id })).json();
      return [(await service.store.get(task.id))!.source_key, task.input.image_index];
    };
    expect(await stillKey()).toEqual([`tasks/${id}/imagine-3.png`, 3]); // the one that the earlier task animates
    await service.bucket.put(`tasks/${id}/still.png`, await png());
    expect(await stillKey()).toEqual([`tasks/${id}/still.png`, 3]);
    const again = await service.post({ still_of: id, image_index: 3 });
    expect(again.status).toBe(202);
    const missing = await service.post({ still_of: id, image_index: 2 });
    const unknown = await service.post({ still_of: '01a206ec-8c81-72d2-88c2-373f04644e4a' });
    const undrawn = await (await service.post({ prompt: 'x' })).json(); // has no pictures
    const empty = await service.post({ still_of: undrawn.id, image_index: 2 });
    expect([missing.status, unknown.status, empty.status]).toEqual([422, 422, 422]);
    expect((await missing.json()).errors).toEqual([
      { field: 'image_index', message: 'must be lower: the earlier task has no picture 2' },
    ]);
    for (const response of [unknown, empty])
      expect((await response.json()).errors).toEqual([
        { field: 'still_of', message: 'must be the id of an earlier task whose pictures are kept' },
      ]);
  });
});

describe('an invalid value is refused with the allowed ones', () => {
  const integer = (min: number, max: number) => new RegExp(`whole number from ${min} to ${max}`);
  test.each<[string, unknown[], RegExp]>([
    ['prompt', ['', '   ', 'x'.repeat(4001), 5, null, ['x'], 'a\0b', '\ud800'], /text of 1 to 4000 characters/],
    ['prompt', ['a cat --repeat 4', 'a cat —r 4', 'a cat --turbo', 'a cat --video'], /^must not contain --\w+ .*--ar/],
    ['prompt', ['a {red, green} cat'], /^must not contain \{permutations/],
    ['H', [63, 100, 2049, 2112, 0, -64, 64.5, null, true], /multiple of 64 from 64 to 2048/],
    ['W', [1000, 1e9, {}, []], /multiple of 64 from 64 to 2048/],
    [
      'aspect_ratio',
      ['16/9', 'wide', '0:1', '1:0', '-1:1', '24:10', '9:22', '16:9:1', 1.5, null, '1e1:9'],
      /must be auto, or W:H from 9:21 to 21:9/,
    ],
    ['T', [0, 101, 1.5, -1], integer(1, 100)],
    ['cond_aug', [-0.1, 1.1, null], /a number from 0 to 1/],
    ['seed', [-1, 1e9 + 1, 0.5], integer(0, 1e9)],
    ['decoding_t', [0, 1e9 + 1, 2.5], integer(1, 1e9)],
    ['fps', [0, 121, 24.5], integer(1, 120)],
    ['motion_bucket_id', [-1, 513, 1.5], integer(0, 512)],
    ['num_cols', [0, 11, 1.5], integer(1, 10)],
    ['steps', [0, 1001, 1.5], integer(1, 1000)],
    ['speed', ['turbo', 2], /one of exact, fast/],
    ['sampler', ['EulerSampler', '', 5], /must be /],
    ['s_churn', [-1], /a number, 0 or more/],
    ['s_tmin', [-1], /a number, 0 or more/],
    ['s_tmax', [-1], /a number, 0 or more/],
    ['s_noise', [-1], /a number, 0 or more/],
    ['discretization', ['EDM'], /must be /],
    ['sigma_min', [0, -1], /a number above 0/],
    ['sigma_max', [0], /a number above 0/],
    ['rho', [0], /a number above 0/],
    ['guider', ['CFG'], /must be /],
    ['order', [0, 1.5], integer(1, 1e9)],
    ['eta', [-0.1, 1.1], /a number from 0 to 1/],
    ['cfg_scale', [-0.1], /a number, 0 or more/],
    ['max_cfg_scale', [0.9], /a number, 1 or more/],
    ['min_guidance_scale', [0.9, 10.1], /a number from 1 to 10/],
    ['guidance_sigma_min', [-1], /a number, 0 or more/],
    ['guidance_sigma_max', [0], /a number above 0/],
    ['cache_interval', [0, 11, 1.5], integer(1, 10)],
    ['cache_depth', [0, 6], integer(1, 5)],
    ['image_index', [0, 5, 1.5], integer(1, 4)],
    ['still_of', ['x', 5], /id of an earlier task/],
    ['fit', ['crop'], /one of cover, contain, stretch/],
    [
      'image_url',
      ['ftp://example.com/a.png', 'example.com/a.png', 'http://', 5, `https://example.com/${'x'.repeat(2050)}`],
      /http or https URL/,
    ],
    [
      'image_url',
      ['http://127.0.0.1/a.png', 'http://[::1]/', 'http://localhost/a', 'http://10.0.0.1/', 'http://0x7f000001/'],
      /public address/,
    ],
    ['webhook_url', ['example.com', 5], /https URL/],
    ['webhook_url', ['http://example.com/hook'], /must be an https URL/],
    ['webhook_url', ['https://192.168.1.1/hook'], /public address/],
  ])('%s', async (field, values, allowed) => {
    for (const value of values) {
      const home = {
        order: { sampler: 'LinearMultistepSampler' },
        eta: { sampler: 'EulerAncestralSampler' },
        cfg_scale: { guider: 'VanillaCFG' },
      };
      const response = await service.post({
        ...home[field as keyof typeof home],
        ...(field !== 'prompt' && { prompt: 'x' }),
        ...(field === 'image_url' && { prompt: undefined }),
        [field]: value,
      });
      expect(response.status, JSON.stringify(value)).toBe(422);
      expect(response.headers.get('content-type')).toBe('application/problem+json');
      const problem = await response.json();
      expect(problem).toMatchObject({ type: 'about:blank', status: 422, code: 'invalid_input' });
      expect(problem.errors, JSON.stringify(value)).toEqual([{ field, message: expect.stringMatching(allowed) }]);
    }
  });

  test('a prompt’s costly flags are refused in a form too, together with other errors', async () => {
    for (const body of [
      new URLSearchParams({ prompt: 'a cat --fast', T: '0' }),
      form({ prompt: 'a cat --fast', T: '0' }),
    ]) {
      const response = await post(body);
      expect(response.status).toBe(422);
      const { errors } = (await response.json()) as { errors: { field: string; message: string }[] };
      expect(errors.map(({ field }) => field).sort()).toEqual(['T', 'prompt']);
      expect(errors.find(({ field }) => field === 'prompt')!.message).toContain('--fast');
    }
    expect((await service.post({ prompt: 'fast cars --ar 3:2 --v 7' })).status).toBe(202);
  });

  test('s_noise above 1 is refused for an ancestral sampler', async () => {
    const { errors } = await (
      await service.post({ prompt: 'x', sampler: 'DPMPP2SAncestralSampler', s_noise: 1.1 })
    ).json();
    expect(errors).toEqual([{ field: 's_noise', message: expect.stringContaining('from 0 to 1') }]);
    expect((await service.post({ prompt: 'x', sampler: 'HeunEDMSampler', s_noise: 1.1 })).status).toBe(202);
  });

  test('all invalid fields are reported at once, unknown ones with the nearest name', async () => {
    const response = await service.post({ prompt: 'x', H: 100, T: 'x', motion_bucket: 5, h: 64, colour: 'red' });
    const { errors } = await response.json();
    expect(
      Object.fromEntries(errors.map(({ field, message }: { field: string; message: string }) => [field, message])),
    ).toEqual({
      H: 'must be a multiple of 64 from 64 to 2048; nearest: 64 and 128',
      T: 'must be a whole number from 1 to 100, not text',
      motion_bucket: 'unknown; did you mean motion_bucket_id?',
      h: 'unknown; did you mean H?',
      colour: 'unknown',
    });
  });

  test('contradicting values are refused', async () => {
    const { errors } = await (await service.post({ prompt: 'x', sigma_min: 800 })).json();
    expect(errors).toEqual([{ field: 'sigma_min', message: 'sigma_min (800) must be below sigma_max (700)' }]);
    expect((await (await service.post({ prompt: 'x', rho: 1e-5 })).json()).errors[0].field).toBe('rho');
    expect((await (await service.post({ T: 5 })).json()).errors[0]).toEqual({
      field: 'prompt',
      message: 'one of prompt, image_url, image, still_of is needed',
    });
  });

  test('numbers beyond JSON and prototype names are refused', async () => {
    expect((await post('{"prompt":"x","T":1e999}', 'application/json')).status).toBe(422);
    expect((await post('{"prompt":"x","__proto__":5}', 'application/json')).status).toBe(422);
    expect((await post('{"prompt":"x","constructor":5}', 'application/json')).status).toBe(422);
  });

  test('a repeated form field, text instead of a picture and a file elsewhere are refused', async () => {
    expect((await (await post(new URLSearchParams('prompt=x&T=5&T=6'))).json()).errors).toEqual([
      { field: 'T', message: 'given more than once' },
    ]);
    expect((await (await post(form({ image: 'https://example.com' }))).json()).errors[0].field).toBe('image');
    expect((await (await post(form({ prompt: 'x', photo: blob('abc') }))).json()).errors[0].field).toBe('photo');
    expect((await (await service.post({ image: 'abc' })).json()).errors[0].field).toBe('image');
  });

  test('a parameter in the query instead of the body is refused', async () => {
    const response = await fetch(`${service.url}/img2vid?T=5`, {
      method: 'POST',
      body: new URLSearchParams({ prompt: 'x' }),
    });
    expect(response.status).toBe(422);
    expect((await response.json()).errors[0].field).toBe('T');
  });
});

test('features are cached only if the request says so; else the input is the same as without these parameters', async () => {
  const create = async (body: object) => (await service.post({ prompt: 'x', seed: 1, ...body })).json();
  const { input } = await create({});
  const unused = await create({ cache_interval: 1, cache_depth: 3 });
  expect(unused.input).toEqual(input);
  const ignored = { field: 'cache_depth', message: 'ignored: only with cache_interval above 1' };
  expect(unused.warnings).toContainEqual(ignored);
  const cached = await create({ cache_interval: 3 });
  expect(cached.input).toEqual({ ...input, cache_interval: 3, cache_depth: 2 });
  expect(cached.warnings).toEqual([{ field: 'cache_interval', message: 'the model camera does not use it' }]);
});

describe('sampler, discretization and guider', () => {
  const inputOf = async (body: object) => {
    const { input, warnings } = await (await service.post({ prompt: 'x', ...body })).json();
    const { sampler, discretization, guider, s_churn, s_tmin, s_tmax, s_noise, eta, order, ...rest } = input;
    const { sigma_min, sigma_max, rho, cfg_scale, max_cfg_scale, min_guidance_scale } = rest;
    const { guidance_sigma_min, guidance_sigma_max } = rest;
    const numbers = {
      s_churn,
      s_tmin,
      s_tmax,
      s_noise,
      eta,
      order,
      sigma_min,
      sigma_max,
      rho,
      cfg_scale,
      max_cfg_scale,
      min_guidance_scale,
      guidance_sigma_min,
      guidance_sigma_max,
    };
    return { sampler, discretization, guider, numbers: JSON.parse(JSON.stringify(numbers)), warnings };
  };
  const churn = { s_churn: 0, s_tmin: 0, s_tmax: 999, s_noise: 1 };
  const edm = { sigma_min: 0.002, sigma_max: 700, rho: 7 };
  const linear = { max_cfg_scale: 2.5, min_guidance_scale: 1 };

  test.each<[object, object]>([
    [{}, { ...churn, ...edm, ...linear }],
    [
      { sampler: 'HeunEDMSampler', s_churn: 3 },
      { ...churn, s_churn: 3, ...edm, ...linear },
    ],
    [{ sampler: 'EulerAncestralSampler' }, { eta: 1, s_noise: 1, ...edm, ...linear }],
    [
      { sampler: 'DPMPP2SAncestralSampler', eta: 0 },
      { eta: 0, s_noise: 1, ...edm, ...linear },
    ],
    [{ sampler: 'DPMPP2MSampler' }, { ...edm, ...linear }],
    [{ sampler: 'LinearMultistepSampler' }, { order: 4, ...edm, ...linear }],
    [
      { sampler: 'LinearMultistepSampler', order: 50, steps: 5 },
      { order: 5, ...edm, ...linear },
    ],
    [{ discretization: 'EDMDiscretization' }, { ...churn, sigma_min: 0.0292, sigma_max: 14.6146, rho: 3, ...linear }],
    [
      { discretization: 'EDMDiscretization', rho: 5 },
      { ...churn, sigma_min: 0.0292, sigma_max: 14.6146, rho: 5, ...linear },
    ],
    [{ sigma_max: 80 }, { ...churn, ...edm, sigma_max: 80, ...linear }],
    [{ discretization: 'LegacyDDPMDiscretization' }, { ...churn, ...linear }],
    [{ discretization: 'AlignYourStepsDiscretization' }, { ...churn, ...linear }],
    [
      { sampler: 'LCMSampler', discretization: 'LCMDiscretization', steps: 40 },
      { s_noise: 1, ...linear },
    ],
    [{ guider: 'LinearPredictionGuider' }, { ...churn, ...edm, max_cfg_scale: 1.5, min_guidance_scale: 1 }],
    [{ max_cfg_scale: 4 }, { ...churn, ...edm, max_cfg_scale: 4, min_guidance_scale: 1 }],
    [{ guider: 'VanillaCFG' }, { ...churn, ...edm, cfg_scale: 5 }],
    [{ guider: 'IdentityGuider' }, { ...churn, ...edm }],
    [{ guidance_sigma_max: 5 }, { ...churn, ...edm, ...linear, guidance_sigma_max: 5 }],
  ])('%j', async (body, numbers) => {
    const got = await inputOf(body);
    expect(got.numbers).toEqual(numbers);
    expect(got.warnings).toEqual([]);
  });

  test('parameters of other choices are ignored, unchecked, with a warning', async () => {
    const { numbers, warnings } = await inputOf({
      sampler: 'DPMPP2MSampler',
      eta: 'nonsense',
      s_churn: -5,
      cfg_scale: 7,
      sigma_max: 80,
    });
    expect(numbers).toEqual({ ...edm, sigma_max: 80, ...linear });
    expect(warnings).toEqual([
      { field: 'eta', message: 'ignored: only for sampler EulerAncestralSampler, DPMPP2SAncestralSampler' },
      { field: 's_churn', message: 'ignored: only for sampler EulerEDMSampler, HeunEDMSampler' },
      { field: 'cfg_scale', message: 'ignored: only for guider VanillaCFG' },
    ]);
  });

  test('more steps than LCMDiscretization has levels are refused', async () => {
    const { errors } = await (
      await service.post({ prompt: 'x', discretization: 'LCMDiscretization', steps: 41 })
    ).json();
    const message = 'must be a whole number from 1 to 40 with LCMDiscretization';
    expect(errors).toEqual([{ field: 'steps', message }]);
  });

  test('AnimateLCM has four steps of its sampler without guidance by default; others get a warning', () => {
    const parse = (model: ModelName, values: object) =>
      parseRequest(
        { image_url: 'https://example.com/a.png', ...values },
        { limits: { maxFrames: 100, maxFps: 120 }, model, hasImage: false, seed: 1 },
      );
    const { input, warnings } = parse('animatelcm_svd_xt', {});
    const choice = { sampler: 'LCMSampler', s_noise: 1, discretization: 'LCMDiscretization', guider: 'IdentityGuider' };
    expect(input).toMatchObject({ T: 25, fps: 7, steps: 4, ...choice });
    for (const name of ['s_churn', 'sigma_max', 'max_cfg_scale']) expect(input).not.toHaveProperty(name);
    expect(warnings).toEqual([]);
    const other = { sampler: 'EulerEDMSampler', discretization: 'EDMDiscretization', steps: 9 };
    expect(parse('animatelcm_svd_xt', other).warnings).toEqual([
      { field: 'sampler', message: 'the model was trained for LCMSampler' },
      { field: 'discretization', message: 'the model was trained on the levels of LCMDiscretization' },
      { field: 'steps', message: 'the model was trained for 1 to 8 steps' },
    ]);
    expect(parse('svd_xt', { sampler: 'LCMSampler' }).warnings).toMatchObject([{ field: 'sampler' }]);
  });

  test('an empty guidance interval is refused', async () => {
    const interval = { guidance_sigma_min: 5, guidance_sigma_max: 5 };
    const { errors } = await (await service.post({ prompt: 'x', ...interval })).json();
    const message = 'must be below guidance_sigma_max (5)';
    expect(errors).toEqual([{ field: 'guidance_sigma_min', message }]);
    const { warnings } = await (await service.post({ prompt: 'x', guider: 'IdentityGuider', ...interval })).json();
    expect(warnings.map(({ field }: { field: string }) => field)).toEqual(Object.keys(interval));
  });

  test('all contradictions are reported at once', async () => {
    const levels = { sigma_min: 800, guidance_sigma_min: 5, guidance_sigma_max: 5 };
    const { errors } = await (await service.post({ prompt: 'x', ...levels })).json();
    const fields = errors.map(({ field }: { field: string }) => field);
    expect(fields).toEqual(['sigma_min', 'guidance_sigma_min']);
  });

  test('an invalid choice is the only error reported', async () => {
    const { errors } = await (await service.post({ prompt: 'x', sampler: 'Euler', eta: 'nonsense' })).json();
    expect(errors.map(({ field }: { field: string }) => field)).toEqual(['sampler']);
  });
});

describe('a body that can’t be read', () => {
  test.each<[string, number, string, BodyInit]>([
    ['no content type', 415, '', blob('{}')],
    ['another content type', 415, 'text/plain', '{}'],
    ['broken JSON', 400, 'application/json', '{"prompt":'],
    ['a JSON list', 400, 'application/json', '[]'],
    ['JSON null', 400, 'application/json', 'null'],
    ['an empty body', 400, 'application/json', ''],
    ['not UTF-8', 400, 'application/json', blob(new Uint8Array([0x22, 0xff, 0xfe, 0x22]))],
    ['multipart without boundary', 400, 'multipart/form-data', 'x'],
    ['broken multipart', 400, 'multipart/form-data; boundary=x', '--x\r\nnonsense'],
    ['too much text', 413, 'application/json', JSON.stringify({ prompt: 'x'.repeat(1_100_000) })],
    ['too much of all', 413, 'multipart/form-data; boundary=x', blob(new Uint8Array(30_000_000))],
  ])('%s: %i', async (_name, status, type, body) => {
    const response = await post(body, type || undefined);
    expect(response.status).toBe(status);
    expect(await response.json()).toMatchObject({ status, code: expect.any(String), detail: expect.any(String) });
  });

  test('a picture of more than 20 MB is 413', async () => {
    expect((await post(form({ image: blob(new Uint8Array(20_000_001)) }))).status).toBe(413);
  });
});

test('a file that is no picture is image_rejected and leaves nothing behind', async () => {
  const before = await objects();
  const jpeg = await sharp(await png())
    .resize(640, 480)
    .jpeg()
    .toBuffer();
  const bomb = await sharp({ create: { width: 10_000, height: 10_000, channels: 3, background: '#fff' } })
    .png()
    .toBuffer();
  const bad = {
    'text.jpg': 'hello',
    truncated: jpeg.subarray(0, jpeg.length / 2),
    bomb,
    svg: '<svg xmlns="http://www.w3.org/2000/svg"/>',
  };
  for (const [name, bytes] of Object.entries(bad)) {
    const response = await post(form({ image: blob(bytes) }));
    const problem = await response.json();
    expect([response.status, problem.code, problem.errors[0].field], name).toEqual([422, 'image_rejected', 'image']);
  }
  expect(await objects()).toEqual(before);
});

test('unusual and unused parameters cause warnings', async () => {
  const { warnings } = await (
    await service.post({ prompt: 'x', motion_bucket_id: 300, fps: 60, cond_aug: 0.1 })
  ).json();
  expect(warnings.map(({ field }: { field: string }) => field)).toEqual(['motion_bucket_id', 'fps', 'cond_aug']);
});

describe('without API keys', () => {
  const request = (headers: Record<string, string>) =>
    service.post({ prompt: 'x' }, { headers: { 'content-type': 'application/json', ...headers } });
  test('a request from another site’s page is refused', async () => {
    for (const headers of [
      { origin: 'https://evil.example' },
      { origin: 'null' },
      { 'sec-fetch-site': 'cross-site' },
      { 'sec-fetch-site': 'same-site' },
    ]) {
      const response = await request(headers as unknown as Record<string, string>);
      expect([response.status, (await response.json()).code]).toEqual([403, 'forbidden_origin']);
    }
    expect((await request({ origin: service.url, 'sec-fetch-site': 'same-origin' })).status).toBe(202);
  });

  test('a host name that resolves to this machine is refused', async () => {
    const { request: raw } = await import('undici');
    const { statusCode } = await raw(`${service.url}/status`, { headers: { host: 'evil.example' } });
    expect(statusCode).toBe(403);
  });
});

test('without a bridge a prompt is refused at once, and nothing else is', async () => {
  const own = await testService({ LOCAL_BRIDGE: 'none' });
  const refused = await own.post({ prompt: 'x' });
  const { code, errors } = await refused.json();
  expect([refused.status, code, errors[0].field]).toEqual([422, 'no_bridge', 'prompt']);
  expect((await own.post({ image_url: 'https://example.com/x.png' })).status).toBe(202);
  await own.close();
});
