/** For the bridges' tests: each bridge with its simulator on a real server, whose answers a test can replace. */
import { getRequestListener } from '@hono/node-server';
import { type Context, Hono } from 'hono';
import sharp from 'sharp';
import type { Bucket } from '../../core/bucket/bucket.ts';
import type { Bridge, BridgeName } from '../../handler/still/bridges/bridge.ts';
import type { ImagineOptions } from '../../handler/still/bridges/imagine.ts';
import { imaginepro } from '../../handler/still/bridges/imaginepro.ts';
import { legnext } from '../../handler/still/bridges/legnext.ts';
import { mjProxy } from '../../handler/still/bridges/mj-proxy.ts';
import { type OpenaiOptions, openai } from '../../handler/still/bridges/openai.ts';
import { tnl } from '../../handler/still/bridges/tnl.ts';
import { imagineproServer } from '../../infra/simulators/bridges/imaginepro.ts';
import type { BridgeServerOptions } from '../../infra/simulators/bridges/imagines.ts';
import { legnextServer } from '../../infra/simulators/bridges/legnext.ts';
import { mjProxyServer } from '../../infra/simulators/bridges/mj-proxy.ts';
import { openaiServer } from '../../infra/simulators/bridges/openai.ts';
import { tnlServer } from '../../infra/simulators/bridges/tnl.ts';
import { serveOnLoopback } from '../../infra/simulators/loopback.ts';

export const TASK = '01890000-0000-7000-8000-000000000001';
export const KEY = 'a key';
export const COLOURS = ['#d02020', '#20c020', '#2020d0', '#c0c020'] as const;

export const plain = (colour: string, width: number, height: number) =>
  sharp({ create: { width, height, channels: 3, background: colour } })
    .png()
    .toBuffer();

/** The colour in the middle of a picture. */
export async function colourOf(png: Buffer): Promise<string> {
  const [r, g, b] = await sharp(png).resize(1, 1).raw().toBuffer();
  return `#${[r!, g!, b!].map((value) => value.toString(16).padStart(2, '0')).join('')}`;
}

/** Of a server of one's own, which answers with URLs. */
const OPENAI_MODEL = 'flux';

const openOpenai = (options: Partial<OpenaiOptions>) =>
  openai({ model: OPENAI_MODEL, answerTimeout: 5000, ...options });

const BRIDGES = {
  tnl: [tnlServer, tnl, '/v2/imagine', '/v2/message/'],
  imaginepro: [imagineproServer, imaginepro, '/api/v1/nova/imagine', '/api/v1/midjourney/message/'],
  legnext: [legnextServer, legnext, '/api/v1/diffusion', '/api/v1/job/'],
  'mj-proxy': [mjProxyServer, mjProxy, '/mj/submit/imagine', '/mj/task/'],
  openai: [openaiServer, openOpenai, '/v1/images/generations', '/no-status/'],
} as const;

export type Call = 'imagine' | 'status' | 'picture' | 'other';

/** Answers instead of the simulator, or not; `answer` gives the simulator's answer. `count` counts the calls of this sort, from 1. */
export type Intervene = (
  call: Call,
  count: number,
  c: Context,
  answer: () => Promise<Response>,
) => Response | undefined | Promise<Response | undefined>;

export type Started = Awaited<ReturnType<typeof startBridge>>;

/** Starts a bridge and its simulator, which is quick by default. The caller closes it. */
export async function startBridge(
  name: BridgeName,
  {
    intervene,
    apiKey = KEY,
    ...options
  }: Partial<BridgeServerOptions> & {
    intervene?: Intervene | undefined;
    fork?: boolean;
    model?: string | undefined;
    count?: number;
    answerTimeout?: number;
  } = {},
) {
  const [startServer, open, imaginePath, statusPath] = BRIDGES[name];
  const mount = { tnl: '/v2', openai: '/v1' }[name as string] ?? '';
  const { app, imagines, paid } = startServer({
    apiKey: KEY,
    duration: 0,
    longerSide: 64,
    draw: (_words, index, width, height) => plain(COLOURS[index - 1]!, width, height),
    ...options,
  });
  const calls: Record<Call, number> = { imagine: 0, status: 0, picture: 0, other: 0 };
  const paths: string[] = [];
  const root = new Hono();
  root.use(async (c, next) => {
    const { method, path } = c.req;
    paths.push(`${method} ${path}`);
    const isStatus = path.startsWith(statusPath) && method === 'GET' && !path.endsWith('/list');
    let call: Call = isStatus ? 'status' : 'other';
    if (path === imaginePath) call = 'imagine';
    if (path.includes('/pictures/')) call = 'picture';
    let answered = false;
    const answer = async () => {
      answered = true;
      await next();
      return c.res;
    };
    calls[call]++;
    const instead = await intervene?.(call, calls[call], c, answer);
    if (!instead) return answered ? undefined : next();
    c.res = undefined; // otherwise the headers of both are sent
    c.res = instead;
    return undefined;
  });
  root.route(mount || '/', app);
  const { url, close } = await serveOnLoopback(getRequestListener(root.fetch));
  const baseUrl = url + mount;
  const { model = OPENAI_MODEL, count = 4, answerTimeout = 5000 } = options;
  const more = name === 'openai' && { model, count, answerTimeout };
  const bridge: Bridge = { ...open({ apiKey, baseUrl, ...more }), pollInterval: 1 };
  return { bridge, baseUrl, imagines, paid, calls, paths, close };
}

/** A bucket in memory, for tests that write much. */
export function memoryBucket(): Bucket {
  const objects = new Map<string, Buffer>();
  const put = async (key: string, body: Uint8Array | string) => void objects.set(key, Buffer.from(body));
  return {
    put,
    async create(key, body) {
      if (objects.has(key)) return false;
      await put(key, body);
      return true;
    },
    get: async (key, limit) => objects.get(key)?.subarray(0, limit),
    has: async (key) => objects.has(key),
    async delete(key) {
      for (const found of objects.keys()) if (found === key || found.startsWith(`${key}/`)) objects.delete(found);
    },
    link: async (key) => key,
  };
}

/** Options of `imagine` for tests. */
export function imagineOptions(bucket: Bucket, bridges: Bridge[], more: Partial<ImagineOptions> = {}): ImagineOptions {
  return {
    bridges,
    bucket,
    taskId: TASK,
    index: 1,
    W: 128,
    H: 64,
    allowPrivate: false,
    stillTimeout: 15_000,
    onProgress: () => {},
    signal: new AbortController().signal,
    ...more,
  };
}
