/** The API's environment: read once, checked, and passed on. README lists every variable. */
import { join } from 'node:path';
import * as v from 'valibot';
import type { BucketEnvironment } from '../core/bucket/open-bucket.ts';
import { httpUrl, integer, modelName, optionalInteger, readEnvironment, sharedVariables } from '../core/environment.ts';
import type { Limits } from '../core/parameters.ts';
import type { ModelName } from '../core/presets.ts';
import { localUrl } from './http/host.ts';
import { type Prices, parsePrice } from './money.ts';

export interface Config {
  port: number;
  host: string;
  /** where callers reach the API, without a slash at the end */
  publicUrl: string;
  /** where RunPod's callbacks reach it, likewise */
  callbackUrl: string;
  dataDir: string;
  bucket: BucketEnvironment;
  databaseUrl: string;
  model: ModelName;
  limits: Limits;
  /** of every API key that has none of its own; undefined: the usual ones */
  keyLimits: {
    /** tasks open at a time */
    maxActive: number | undefined;
    /** a minute */
    submissions: number | undefined;
    requests: number | undefined;
  };
  /** how many proxies of ours every request comes through, each of which adds to X-Forwarded-For */
  trustProxy: number;
  /** what becomes of prompts, where API and worker start together and it is known that there is no Midjourney bridge */
  bridge: 'none' | 'placeholder' | undefined;
  allowPrivateUrls: boolean;
  /** of other web pages that may use the API, such as https://app.example.com; `*`, which counts only with API keys: any */
  corsOrigins: string[];
  /** how long a link is good for; seconds */
  linkSeconds: number;
  /** how long a bridge may take; milliseconds */
  stillTimeout: number;
  /** how long after its creation a task may still end; milliseconds */
  taskDeadline: number;
  /** how long after a task's end its files and prompt are kept; milliseconds */
  retain: number;
  prices: Prices;
  runpod: { apiKey: string; endpointId: string; baseUrl: string | undefined };
}

const DAY = 24 * 3600; // seconds

const origins = v.pipe(
  v.optional(v.string(), ''),
  v.transform((text) => text.split(',').map((part) => part.trim())),
  v.transform((parts) => parts.filter((part) => part !== '')),
  v.check(
    (list) => (list.length === 1 && list[0] === '*') || list.every(isOrigin),
    'must be * alone, or origins, such as https://app.example.com, separated by commas',
  ),
);
/** A variable that is a price, in units of CURRENCY; 0 when it is absent. */
const price = (max: number) =>
  v.pipe(
    v.optional(v.string(), '0'),
    v.transform(parsePrice),
    v.custom<bigint>(
      (parsed) => typeof parsed === 'bigint' && parsed <= parsePrice(String(max))!,
      `must be a decimal number from 0 to ${max}, such as 0.00034, with at most 12 decimals`,
    ),
  );

const databaseAddress = v.optional(
  v.pipe(
    v.string(),
    v.regex(/^(file:|postgres(ql)?:\/\/)/, 'must be a libSQL file, such as file:data/tasks.db, or postgres://…'),
  ),
);
const databaseIn = (env: { DATA_DIR: string; DATABASE_URL?: string | undefined }) =>
  env.DATABASE_URL ?? `file:${join(env.DATA_DIR, 'tasks.db')}`;

/** Where tasks and keys live, for the operator's tools. @throws Error that names the variable and what is allowed */
export const databaseUrl = (environment: NodeJS.ProcessEnv): string =>
  databaseIn(readEnvironment({ DATA_DIR: sharedVariables.DATA_DIR, DATABASE_URL: databaseAddress }, environment));

/** @throws Error that names every wrong variable and what is allowed */
export function readConfig(environment: NodeJS.ProcessEnv): Config {
  const env = readEnvironment(
    {
      ...sharedVariables,
      PORT: integer(5000, 1, 65535),
      HOST: v.optional(v.string(), '127.0.0.1'),
      PUBLIC_URL: v.optional(httpUrl),
      CALLBACK_URL: v.optional(httpUrl), // infra/run/start.ts says it
      RUNPOD_POD_ID: v.optional(v.string()),
      DATABASE_URL: databaseAddress,
      MODEL: v.optional(modelName, 'svd_xt'),
      RUNPOD_API_KEY: v.string(),
      RUNPOD_ENDPOINT_ID: v.pipe(
        v.string('is needed; without it `npm start` runs everything on this machine'),
        v.nonEmpty(),
      ),
      RUNPOD_BASE_URL: v.optional(httpUrl),
      LINK_SECONDS: integer(DAY, 1, 7 * DAY),
      TASK_DEADLINE_SECONDS: integer(DAY, 1, 30 * DAY),
      RETAIN_DAYS: integer(30, 1, 3650),
      // At most so much that every amount is a safe integer of micro-units.
      PRICE_PER_GPU_SECOND: price(100),
      PRICE_PER_STILL: price(100_000),
      CURRENCY: v.optional(v.pipe(v.string(), v.regex(/^[A-Z]{3}$/, 'must be three capital letters')), 'USD'),
      MAX_FRAMES: integer(100, 1, 1000),
      MAX_FPS: integer(120, 1, 1000),
      LOCAL_BRIDGE: v.optional(v.picklist(['none', 'placeholder'])), // infra/run/start.ts says it
      CORS_ORIGINS: origins,
      MAX_OPEN_TASKS: optionalInteger(1, 1_000_000),
      SUBMISSIONS_PER_MINUTE: optionalInteger(1, 60_000),
      REQUESTS_PER_MINUTE: optionalInteger(1, 60_000),
      TRUST_PROXY: integer(0, 0, 10),
    },
    environment,
  );
  const podAddress = env.RUNPOD_POD_ID && `https://${env.RUNPOD_POD_ID}-${env.PORT}.proxy.runpod.net`;
  const publicUrl = env.PUBLIC_URL ?? podAddress ?? localUrl(env.HOST, env.PORT);
  return {
    port: env.PORT,
    host: env.HOST,
    publicUrl,
    callbackUrl: env.CALLBACK_URL ?? publicUrl,
    dataDir: env.DATA_DIR,
    bucket: env,
    databaseUrl: databaseIn(env),
    model: env.MODEL,
    limits: { maxFrames: env.MAX_FRAMES, maxFps: env.MAX_FPS },
    keyLimits: {
      maxActive: env.MAX_OPEN_TASKS,
      submissions: env.SUBMISSIONS_PER_MINUTE,
      requests: env.REQUESTS_PER_MINUTE,
    },
    trustProxy: env.TRUST_PROXY,
    bridge: env.LOCAL_BRIDGE,
    allowPrivateUrls: env.ALLOW_PRIVATE_URLS,
    corsOrigins: env.CORS_ORIGINS,
    linkSeconds: env.LINK_SECONDS,
    stillTimeout: env.STILL_TIMEOUT * 1000,
    taskDeadline: env.TASK_DEADLINE_SECONDS * 1000,
    retain: env.RETAIN_DAYS * DAY * 1000,
    prices: { currency: env.CURRENCY, perGpuSecond: env.PRICE_PER_GPU_SECOND, perStill: env.PRICE_PER_STILL },
    runpod: { apiKey: env.RUNPOD_API_KEY, endpointId: env.RUNPOD_ENDPOINT_ID, baseUrl: env.RUNPOD_BASE_URL },
  };
}

const isOrigin = (text: string) => /^https?:/.test(text) && URL.canParse(text) && new URL(text).origin === text;
