import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, request } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { openStore } from '../../api/store/store.ts';
import { followEvents } from '../../client/events.js';
import type { PresentedTask } from '../../core/responses.ts';
import { freePort } from '../../infra/run/free-port.ts';
import { hasBrowser, launchBrowser, playing } from '../../infra/tools/browser.ts';
import { makeKey, type TestService, testService } from '../support/test-api.ts';
import { newTask, UNLIMITED } from '../support/test-store.ts';
import { PICTURE, startService } from './local-service.ts';

const MEGABYTE = 1_000_000;

/** When a request is cut: some time after the first byte of its response, or after some bytes. */
interface Limits {
  milliseconds?: number;
  bytes?: number;
}

/**
 * A proxy like RunPod's in front of a pod: it uses the public host name, adds its headers, and cuts each request after a time. RunPod's
 * limit is 100 s.
 */
async function startProxy(target: string, limits: Limits) {
  let cuts = 0;
  const sockets = new Set<Socket>();
  const server = createServer((incoming, answer) => {
    const cut = () => {
      cuts++;
      answer.destroy();
      onward.destroy();
    };
    const headers = {
      ...incoming.headers,
      host: 'abc123-5000.proxy.runpod.net',
      'x-forwarded-for': '203.0.113.9, 100.64.0.20',
      'x-forwarded-host': 'abc123-5000.proxy.runpod.net',
      'x-forwarded-proto': 'https',
    };
    const onward = request(target + incoming.url, { method: incoming.method, headers }, (response) => {
      answer.writeHead(response.statusCode!, response.rawHeaders);
      answer.flushHeaders();
      if (limits.milliseconds !== undefined)
        response.once('data', () => setTimeout(() => !answer.closed && cut(), limits.milliseconds));
      let left = limits.bytes ?? Infinity;
      response.on('data', (part: Buffer) => {
        if (left >= part.length) answer.write(part);
        else if (left >= 0) answer.write(part.subarray(0, left), cut);
        left -= part.length;
      });
      response.on('end', () => left >= 0 && answer.end());
      response.on('error', () => answer.destroy());
    });
    onward.on('error', () => answer.destroy());
    incoming.pipe(onward);
    answer.once('close', () => onward.destroy()); // the caller may have gone
  });
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    cuts: () => cuts,
    close() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

describe('through a proxy that cuts requests', () => {
  let service: TestService;
  let proxy: Awaited<ReturnType<typeof startProxy>>;
  let key: Awaited<ReturnType<TestService['key']>>;
  beforeAll(async () => {
    service = await testService();
    key = await service.key();
  });
  afterEach(() => proxy.close());
  afterAll(() => service.close());

  const ask = (path: string, init: RequestInit = {}) =>
    fetch(proxy.url + path, { ...init, headers: { ...key.headers, ...init.headers } });

  async function post(): Promise<string> {
    const form = new FormData();
    form.set('image', new Blob([PICTURE]));
    const answer = await ask('/img2vid', { method: 'POST', body: form });
    expect(answer.status).toBe(202);
    return (await answer.json()).id;
  }

  test('uploads arrive, and events follow a task to its end, each connection from where the last one broke', async () => {
    proxy = await startProxy(service.url, { milliseconds: 100 });
    const id = await post();
    const job = await service.take(id);
    const lastEventIds: (string | undefined)[] = []; // Last-Event-ID, by connection
    const steps: number[] = []; // as they were seen
    let breaks = 0;
    const goOn = async () => {
      const step = steps.length + 1;
      if (step > 3) return service.report(job.id, { output: await service.finish(id, job.id) });
      service.report(job.id, {
        status: 'IN_PROGRESS',
        output: { stage: 'sampling', progress: step / 5, step, steps: 5 },
      });
    };
    const connect = async (headers: Record<string, string>) => {
      lastEventIds.push(headers['last-event-id']);
      await goOn(); // while nobody is connected
      return ask(`/status?id=${id}`, { headers });
    };
    for await (const data of followEvents(connect, { onBreak: () => breaks++, signal: new AbortController().signal })) {
      const { step, status }: PresentedTask = JSON.parse(data);
      if (step !== undefined && step !== steps.at(-1)) steps.push(step);
      if (status === 'succeeded') break;
    }
    expect(steps).toEqual([1, 2, 3]);
    expect(breaks).toBeGreaterThanOrEqual(3);
    expect(proxy.cuts()).toBe(breaks);
    const versions = lastEventIds.slice(1).map(Number);
    expect(lastEventIds[0]).toBeUndefined();
    expect(versions[0]).toBeGreaterThan(0);
    expect(versions).toEqual([...versions].sort((a, b) => a - b));
  });

  test('a download continues by Range where it was cut', async () => {
    proxy = await startProxy(service.url, { bytes: MEGABYTE });
    const file = randomBytes(3.5 * MEGABYTE);
    const object = 'tasks/01a206ec-8c81-72d2-88c2-373f04644e4a/a/video-1.mp4';
    await service.bucket.put(object, file);
    const link = (await service.bucket.link(object, Math.floor(Date.now() / 1000) + 60)).replace(service.url, '');
    const parts: Uint8Array[] = [];
    const length = () => parts.reduce((sum, { byteLength }) => sum + byteLength, 0);
    let etag: string | null = null;
    while (length() < file.length) {
      const condition: Record<string, string> = etag === null ? {} : { range: `bytes=${length()}-`, 'if-range': etag };
      const answer = await ask(link, { headers: condition });
      expect(answer.status).toBe(etag === null ? 200 : 206);
      etag = answer.headers.get('etag');
      try {
        for await (const part of answer.body!) parts.push(part);
      } catch {
        // it was cut
      }
    }
    const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
    expect(sha256(Buffer.concat(parts))).toBe(sha256(file));
    expect(proxy.cuts()).toBe(3);
  });

  test('a cut list is not valid JSON, and its pages are complete', async () => {
    const tasks = Array.from({ length: 150 }, () => newTask({ owner: key.id }));
    await Promise.all(tasks.map((task) => service.store.insert(task, UNLIMITED)));
    proxy = await startProxy(service.url, { bytes: 60_000 }); // of some 150,000
    const cut = await ask('/status');
    expect(cut.status).toBe(200);
    const read = cut.text().then(
      () => 'whole',
      () => 'broken',
    );
    expect(await read).toBe('broken');
    const ids = new Set<string>();
    for (let path: string | undefined = '/status?limit=30'; path; ) {
      const page: Response = await ask(path);
      for (const { id } of (await page.json()) as PresentedTask[]) ids.add(id);
      const next: string | undefined = /<([^>]+)>; rel="next"/.exec(page.headers.get('link') ?? '')?.[1];
      path = next?.slice(new URL(next).origin.length);
    }
    for (const { id } of tasks) expect(ids.has(id)).toBe(true);
  });
});

describe.skipIf(!hasBrowser)('the page at the proxy’s address, in Chromium', () => {
  test('the page follows a clip through the cuts and plays it', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'proxy-'));
    const store = await openStore(`file:${join(folder, 'tasks.db')}`);
    const { value: text } = await makeKey(store);
    await store.close();
    const port = await freePort();
    const proxy = await startProxy(`http://127.0.0.1:${port}`, { milliseconds: 500 });
    const service = await startService({ PORT: String(port), DATA_DIR: folder, PUBLIC_URL: proxy.url });
    const browser = await launchBrowser();
    try {
      const page = await browser.newPage();
      const faults: string[] = [];
      page.on(
        'console',
        (message) => message.text().includes('Content Security Policy') && faults.push(message.text()),
      );
      const lastEventIds: (string | undefined)[] = [];
      page.on('request', (request) => {
        if (request.url().includes('/status?id=')) lastEventIds.push(request.headers()['last-event-id']);
      });
      await page.goto(proxy.url);
      await page.fill('#key', text);
      await page.click('#key-form button');
      await page.click('label:has([value="picture"])');
      await page.setInputFiles('#image', { name: 'a.png', mimeType: 'image/png', buffer: Buffer.from(PICTURE) });
      await page.click('label:has([value="other"])');
      for (const [name, value] of Object.entries({ W: 1024, H: 1024, T: 100 })) // so long that it is cut
        await page.fill(`#setting-${name}`, String(value));
      await page.click('#make');
      await page.waitForSelector('#tasks video', { timeout: 150_000 });
      expect((await playing(page)).src.startsWith(`${proxy.url}/files/`)).toBe(true);
      expect(lastEventIds.length).toBeGreaterThanOrEqual(2);
      expect(lastEventIds.slice(1).every((id) => Number(id) > 0)).toBe(true);
      expect(faults).toEqual([]);
    } finally {
      await browser.close();
      await service.stop();
      proxy.close();
      await rm(folder, { recursive: true, force: true });
    }
  }, 180_000);
});
