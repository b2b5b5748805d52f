/** The API's environment, read and validated once. core/variables.ts describes every variable. */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import * as v from 'valibot';
import { httpUrl, integer, modelName, optionalInteger, readEnvironment, sharedVariables } from '../core/environment.ts';
import { DAY, SECOND } from '../core/time.ts';
import { localUrl } from './http/host.ts';
import { parsePrice } from './money.ts';

export type Config = ReturnType<typeof readConfig>;

const origins = v.pipe(
  v.optional(v.string(), ''),
  v.transform((text) => text.split(',').flatMap((part) => part.trim() || [])),
  v.check(
    (list) => (list.length === 1 && list[0] === '*') || list.every(isOrigin),
    'must be * alone, or origins, such as https://app.example.com, separated by commas',
  ),
);
/** A price in units of CURRENCY, 0 by default. */
const price = (max: number) =>
  v.pipe(
    v.optional(v.string(), '0'),
    v.transform(parsePrice),
    v.custom<bigint>(
      (parsed) => typeof parsed === 'bigint' && parsed <= parsePrice(String(max))!,
      `must be a decimal number from 0 to ${max}, such as 0.00034, with at most 12 decimals`,
    ),
  );

function isPercentEncoded(url: string): boolean {
  try {
    decodeURIComponent(url);
    return true;
  } catch {
    return false;
  }
}

const databaseSchema = v.optional(
  v.pipe(
    v.string(),
    v.check(
      (url) => /^postgres(ql)?:\/\//.test(url) || (url.startsWith('file:') && isPercentEncoded(url)),
      'must be a libSQL file, such as file:data/tasks.db (with %25 for a percent sign), or postgres://…',
    ),
  ),
);
const databaseIn = (env: { DATA_DIR: string; DATABASE_URL?: string | undefined }) =>
  env.DATABASE_URL ?? pathToFileURL(join(env.DATA_DIR, 'tasks.db')).href;

/** For the operator's tools. @throws Error that names the variable and what is allowed */
export const databaseUrl = (environment: NodeJS.ProcessEnv): string =>
  databaseIn(readEnvironment({ DATA_DIR: sharedVariables.DATA_DIR, DATABASE_URL: databaseSchema }, environment));

export const API_VARIABLES = {
  ...sharedVariables,
  PORT: integer(5000, 1, 65535),
  HOST: v.optional(v.string(), '127.0.0.1'),
  PUBLIC_URL: v.optional(
    v.pipe(
      httpUrl,
      v.check(
        (url) => /^\/?$/.test(new URL(url).pathname + new URL(url).search),
        'must have no path: the page and the documentation need a host of their own, such as https://video.example.com',
      ),
    ),
  ),
  CALLBACK_URL: v.optional(httpUrl), // set by infra/run/start.ts
  RUNPOD_POD_ID: v.optional(v.string()),
  DATABASE_URL: databaseSchema,
  MODEL: v.optional(modelName, 'svd_xt'),
  RUNPOD_API_KEY: v.string(),
  RUNPOD_ENDPOINT_ID: v.pipe(
    v.string('is required here; without it, `npm start` runs everything on this machine'),
    v.nonEmpty(),
  ),
  RUNPOD_BASE_URL: v.optional(httpUrl),
  LINK_SECONDS: integer(DAY / SECOND, 1, (7 * DAY) / SECOND),
  TASK_DEADLINE_SECONDS: integer(DAY / SECOND, 1, (30 * DAY) / SECOND),
  RETAIN_DAYS: integer(30, 1, 3650),
  // The limits keep every amount a safe integer of micro-units.
  PRICE_PER_GPU_SECOND: price(100),
  PRICE_PER_STILL: price(100_000),
  CURRENCY: v.optional(v.pipe(v.string(), v.regex(/^[A-Z]{3}$/, 'must be three capital letters')), 'USD'),
  MAX_FRAMES: integer(100, 1, 1000),
  MAX_FPS: integer(120, 1, 1000),
  LOCAL_BRIDGE: v.optional(v.picklist(['none', 'placeholder'])), // set by infra/run/start.ts
  CORS_ORIGINS: origins,
  MAX_OPEN_TASKS: optionalInteger(1, 1_000_000),
  MAX_UPLOADS_MB: optionalInteger(1, 1_000_000),
  SUBMISSIONS_PER_MINUTE: optionalInteger(1, 60_000),
  REQUESTS_PER_MINUTE: optionalInteger(1, 60_000),
  TRUST_PROXY: integer(0, 0, 10),
};

/** @throws Error that names every wrong variable and what is allowed */
export function readConfig(environment: NodeJS.ProcessEnv) {
  const env = readEnvironment(API_VARIABLES, environment);
  const podUrl = env.RUNPOD_POD_ID && `https://${env.RUNPOD_POD_ID}-${env.PORT}.proxy.runpod.net`;
  const publicUrl = env.PUBLIC_URL ?? podUrl ?? localUrl(env.HOST, env.PORT);
  return {
    port: env.PORT,
    host: env.HOST,
    /** where clients reach the API, without a slash at the end */
    publicUrl,
    /** where RunPod’s callbacks reach it, without a slash at the end */
    callbackUrl: env.CALLBACK_URL ?? publicUrl,
    dataDir: env.DATA_DIR,
    bucket: env,
    databaseUrl: databaseIn(env),
    model: env.MODEL,
    limits: { maxFrames: env.MAX_FRAMES, maxFps: env.MAX_FPS },
    /** of every API key without its own; undefined: the defaults of keys/access.ts */
    keyLimits: {
      maxActive: env.MAX_OPEN_TASKS,
      /** of the uploads of active tasks */
      uploadsMB: env.MAX_UPLOADS_MB,
      /** per minute */
      submissions: env.SUBMISSIONS_PER_MINUTE,
      /** per minute */
      requests: env.REQUESTS_PER_MINUTE,
    },
    /** number of the operator's proxies before the API, each of which adds to X-Forwarded-For */
    trustProxy: env.TRUST_PROXY,
    /** set where API and worker start together without a bridge: what they do with prompts instead */
    bridge: env.LOCAL_BRIDGE,
    allowPrivateUrls: env.ALLOW_PRIVATE_URLS,
    /** of other web pages that may use the API, such as https://app.example.com; `*`, which counts only with API keys: any */
    corsOrigins: env.CORS_ORIGINS,
    /** lifetime of links; seconds */
    linkSeconds: env.LINK_SECONDS,
    /** timeout of a bridge; milliseconds */
    stillTimeout: env.STILL_TIMEOUT * SECOND,
    /** from a task's creation; milliseconds */
    taskDeadline: env.TASK_DEADLINE_SECONDS * SECOND,
    /** how long after a task's end its files and prompt are kept; milliseconds */
    retain: env.RETAIN_DAYS * DAY,
    /** perStill: of the pictures that a bridge generates from a prompt; pico-units, see money.ts */
    prices: { currency: env.CURRENCY, perGpuSecond: env.PRICE_PER_GPU_SECOND, perStill: env.PRICE_PER_STILL },
    runpod: { apiKey: env.RUNPOD_API_KEY, endpointId: env.RUNPOD_ENDPOINT_ID, baseUrl: env.RUNPOD_BASE_URL },
  };
}

const isOrigin = (text: string) => /^https?:/.test(text) && URL.canParse(text) && new URL(text).origin === text;
