/** The names that clips are saved under. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { FieldNote } from '../../core/invalid-request.ts';
import { sample } from '../../test/support/malicious-pictures.ts';
import { type TestService, testService } from '../../test/support/test-api.ts';

let service: TestService;
let jpeg: Buffer;
beforeAll(async () => {
  service = await testService();
  jpeg = await sample().jpeg().toBuffer();
});
afterAll(() => service.close());

/** Sends a picture whose file has this name, byte for byte. */
async function upload(filename: string) {
  const head = `--x\r\ncontent-disposition: form-data; name="image"; filename="${filename}"\r\ncontent-type: image/jpeg\r\n\r\n`;
  const body = Buffer.concat([Buffer.from(head), jpeg, Buffer.from('\r\n--x--\r\n')]);
  const headers = { 'content-type': 'multipart/form-data; boundary=x' };
  const response = await fetch(`${service.url}/img2vid`, { method: 'POST', headers, body });
  expect(response.status, await response.clone().text()).toBe(202);
  return response.json();
}

/** Ends the task. @returns it */
async function finish(id: string) {
  const job = await service.take(id);
  expect(job.input).not.toHaveProperty('image'); // an older worker would refuse it
  service.report(job.id, { output: await service.finish(id, job.id) });
  return service.until(id, ({ status }) => status === 'succeeded');
}

test.each([
  ['photo.jpg', 'photo.jpg', 'photo-1.mp4'],
  ['IMG_2041.HEIC', 'IMG_2041.HEIC', 'IMG_2041-1.mp4'],
  ['Café Zürich (2).jpeg', 'Café Zürich (2).jpeg', 'Cafe-Zurich-2-1.mp4'],
  ['a %22quoted%22 name.png', 'a "quoted" name.png', 'a-quoted-name-1.mp4'],
  ['two%0D%0Aset-cookie: a=b.png', 'two set-cookie: a=b.png', 'two-set-cookie-a-b-1.mp4'],
  ['../../etc/passwd', 'passwd', 'passwd-1.mp4'],
  ['C:\\\\Users\\\\me\\\\cat.png', 'cat.png', 'cat-1.mp4'],
  ['exe.\u202egnp.photo', 'exe. gnp.photo', 'exe-gnp-1.mp4'],
  ['صورة.jpg', 'صورة.jpg', 'clip-1.mp4'],
  ['😀🎉.jpg', '😀🎉.jpg', 'clip-1.mp4'],
  ['\u0000\u0007.jpg', undefined, 'clip-1.mp4'],
  [`${'a'.repeat(300)}.jpg`, 'a'.repeat(100), `${'a'.repeat(60)}-1.mp4`],
  [`${'long words '.repeat(27)}.jpg`, 'long words '.repeat(10).slice(0, 100), /^(long-words-){5}long-1\.mp4$/],
  ['..', undefined, 'clip-1.mp4'],
  ['blob', undefined, 'clip-1.mp4'],
  ['', undefined, 'clip-1.mp4'],
])('an upload named %j is shown as %j, and its clip is named %s', async (sent, shown, saved) => {
  const { id, input } = await upload(sent);
  expect(input.image).toBe(shown?.trim());
  const { filename, download_link, link } = (await finish(id)).videos![0]!;
  if (saved instanceof RegExp) expect(filename).toMatch(saved);
  else expect(filename).toBe(saved);
  expect((await fetch(download_link)).headers.get('content-disposition')).toBe(`attachment; filename="${filename}"`);
  expect((await fetch(link)).headers.get('content-disposition')).toBe(`inline; filename="${filename}"`);
});

test.each([
  [{ prompt: 'A lighthouse at dawn, don’t blink --ar 16:9 --no people' }, 'A-lighthouse-at-dawn-dont-blink'],
  [{ prompt: 'https://example.com/secret.png in\n"oil"; rm -rf /' }, 'in-oil-rm-rf'],
  [{ prompt: '🌊🌊🌊' }, 'clip'],
  [{ prompt: '‮../../‮' }, 'clip'],
  [{ image_url: 'https://example.com/a/My%20cat.jpg?token=x' }, 'My-cat'],
  [{ image_url: 'https://example.com/%E0%A4%A.png' }, 'E0-A4-A'],
  [{ image_url: 'https://picsum.photos/1024' }, 'clip'],
  [{ image_url: 'https://example.com/9f86d081884c7d659a2feaa0c55ad015.png' }, 'clip'],
  [{ image_url: 'https://example.com/' }, 'clip'],
])('the files of %j are named %s', async (fields, name) => {
  const { id } = await (await service.post(fields)).json();
  const { videos, still } = await finish(id);
  const { filename, content_type, poster, preview } = videos![0]!;
  const files = [{ filename, content_type }, poster!, preview!, still!, still!.preview!];
  expect(files.map((file) => [file.filename, file.content_type])).toEqual([
    [`${name}-1.mp4`, 'video/mp4'],
    [`${name}-1.jpg`, 'image/jpeg'],
    [`${name}-1.webp`, 'image/webp'],
    [`${name}-still.png`, 'image/png'],
    [`${name}-still.jpg`, 'image/jpeg'],
  ]);
});

test('an uploaded file’s name is deleted with the files, and is no part of an idempotent request', async () => {
  const { id } = await upload('secret plans.jpg');
  await finish(id);
  const { input } = await (await fetch(`${service.url}/delete?id=${id}`, { method: 'POST' })).json();
  expect(input).not.toHaveProperty('image');
  const post = async (name: string) => {
    const body = new FormData();
    body.append('image', new Blob([new Uint8Array(jpeg)]), name);
    const headers = { 'idempotency-key': 'a-key' };
    return (await fetch(`${service.url}/img2vid`, { method: 'POST', headers, body })).json();
  };
  const [first, second] = [await post('one.jpg'), await post('two.jpg')];
  expect([second.id, second.input.image]).toEqual([first.id, 'one.jpg']);
});

describe('the input of a task from an upload can be sent again:', () => {
  let id: string;
  let input: Record<string, unknown>;
  beforeAll(async () => {
    ({ id, input } = await upload('photo.jpg'));
    await finish(id);
  });
  const send = async (body: FormData | URLSearchParams) =>
    (await fetch(`${service.url}/img2vid?dry_run=1`, { method: 'POST', body })).json();
  const fields = (more = {}) =>
    Object.entries({ ...input, ...more }).map(([name, value]): [string, string] => [name, String(value)]);
  const form = (entries: [string, string][], file?: Blob) => {
    const body = new FormData();
    for (const [name, value] of entries) body.append(name, value);
    if (file) body.append('image', file, 'another.jpg');
    return body;
  };

  test('its image is ignored with another source, and a warning says so', async () => {
    const json = await service.post({ ...input, still_of: id });
    expect(json.status).toBe(202);
    const answers = [await json.json()];
    for (const body of [new URLSearchParams(fields({ still_of: id })), form(fields({ still_of: id }))])
      answers.push(await send(body));
    for (const answer of answers) {
      expect(answer.input).not.toHaveProperty('image');
      expect(answer.input.still_of).toBe(id);
      expect(answer.warnings).toContainEqual({ field: 'image', message: 'ignored, because still_of is given' });
    }
  });

  test('its image is ignored with a file', async () => {
    const answer = await send(form(fields(), new Blob([new Uint8Array(jpeg)])));
    expect(answer).toMatchObject({ input: { ...input, image: 'another.jpg' } });
    expect(answer.warnings.map(({ field }: FieldNote) => field)).not.toContain('image');
  });

  test('alone it needs a file, and what is no name needs one in any case', async () => {
    const message = 'must be a file in multipart/form-data, a data URL or base64; to send a URL, use image_url';
    const errors = [{ field: 'image', message }];
    for (const body of [new URLSearchParams(fields()), form(fields())])
      expect((await send(body)).errors).toEqual(errors);
    expect((await (await service.post(input)).json()).errors).toEqual(errors);
    for (const image of ['https://example.com/a.png', 'a'.repeat(101), '', 5, null])
      expect((await (await service.post({ prompt: 'x', image })).json()).errors).toEqual(errors);
  });
});

test('the result of an older worker has no poster and no previews', async () => {
  const { id } = await upload('photo.jpg');
  const job = await service.take(id);
  const { still_preview: _, ...output } = await service.finish(id, job.id);
  const videos = output.videos.map(({ poster: _, preview: __, ...video }) => video);
  service.report(job.id, { output: { ...output, videos } });
  const task = await service.until(id, ({ status }) => status === 'succeeded');
  expect(task.still).not.toHaveProperty('preview');
  expect(task.videos![0]).not.toHaveProperty('poster');
  expect(task.videos![0]).not.toHaveProperty('preview');
  expect(task.videos![0]!.filename).toBe('photo-1.mp4');
});
