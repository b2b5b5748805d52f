/**
 * `npm run bucket -- setup`: CORS and lifecycle rules of the environment's S3 bucket; rules that are not ours are kept.
 * `npm run bucket -- check`: does with the bucket all that the service does, a line each, and leaves nothing behind.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { realpathSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import {
  AbortMultipartUploadCommand,
  type CORSRule,
  CreateMultipartUploadCommand,
  GetBucketCorsCommand,
  GetBucketLifecycleConfigurationCommand,
  type LifecycleRule,
  PutBucketCorsCommand,
  PutBucketLifecycleConfigurationCommand,
  type S3Client,
} from '@aws-sdk/client-s3';
import * as v from 'valibot';
import { type Bucket, StorageError } from '../../core/bucket/bucket.ts';
import { s3Options } from '../../core/bucket/open-bucket.ts';
import { type S3Options, s3Bucket, s3Client } from '../../core/bucket/s3.ts';
import { httpUrl, integer, readEnvironment, sharedVariables } from '../../core/environment.ts';

const USAGE = `npm run bucket -- setup | check

  setup  lets the page at PUBLIC_URL (or CORS_ORIGINS, with commas between) read the bucket, and has the store delete tasks
         after RETAIN_DAYS (30), and what is left of uploads that broke off after a day
  check  does all that the service does with the bucket, and says what is missing

The bucket is that of BUCKET_NAME, BUCKET_ENDPOINT_URL, BUCKET_ACCESS_KEY_ID, BUCKET_SECRET_ACCESS_KEY and BUCKET_REGION.
`;

/** Somebody is waiting: what does not pass within seconds is said. Milliseconds. */
const LONGEST_WAIT = 500;

export interface Surroundings {
  env: NodeJS.ProcessEnv;
  out: { write(text: string): unknown };
  err: { write(text: string): unknown };
}

type Settings = ReturnType<typeof readSettings>;

/** What a step found: well, or well enough with something to know, or not. */
type Say = (state: 'ok' | 'note' | 'missing', text: string) => void;

/** @returns the exit status: 0 if nothing that is needed is missing; what stopped it is one line on `err` */
export async function main(args: string[], { env, out, err }: Surroundings): Promise<number> {
  try {
    const [command = '', ...more] = args;
    if (command === '--help') {
      out.write(USAGE);
      return 0;
    }
    if ((command !== 'setup' && command !== 'check') || more.length > 0)
      throw new Error(`setup or check?\n\n${USAGE.trimEnd()}`);
    const settings = readSettings(env);
    let status = 0;
    const say: Say = (state, text) => {
      if (state === 'missing') status = 1;
      out.write(`${state.padEnd(8)} ${text}\n`);
    };
    await (command === 'setup' ? setup(settings, say) : check(settings, say));
    return status;
  } catch (error) {
    err.write(`${(error as Error).message}\n`);
    return 1;
  }
}

function readSettings(environment: NodeJS.ProcessEnv) {
  const env = readEnvironment(
    {
      ...sharedVariables,
      PUBLIC_URL: v.optional(httpUrl),
      CORS_ORIGINS: v.optional(v.string()),
      RETAIN_DAYS: integer(30, 1, 3650),
    },
    environment,
  );
  const s3 = s3Options(env);
  if (!s3) throw new Error('BUCKET_NAME is needed: without it the bucket is a folder, which needs no setup');
  const named = env.CORS_ORIGINS?.split(',') ?? (env.PUBLIC_URL ? [env.PUBLIC_URL] : []);
  const origins = named.map((text) => {
    const address = text.trim();
    if (!/^https?:\/\//.test(address) || !URL.canParse(address))
      throw new Error('CORS_ORIGINS must be http or https addresses, with commas between');
    return new URL(address).origin;
  });
  const tuning = { wait: (time: number) => delay(Math.min(time, LONGEST_WAIT)) };
  return { s3, origins, retainDays: env.RETAIN_DAYS, client: s3Client(s3, tuning), bucket: s3Bucket(s3, tuning) };
}

// setup

const CORS_RULE = 'img2vid-page';
const RETAIN_RULE = 'img2vid-retain';
const UPLOADS_RULE = 'img2vid-uploads';

async function setup({ s3, origins, retainDays, client }: Settings, say: Say) {
  if (origins.length === 0)
    say('note', 'CORS: left as it is; set PUBLIC_URL or CORS_ORIGINS, and the page there may read');
  else {
    const rule: CORSRule = {
      ID: CORS_RULE,
      AllowedOrigins: origins,
      AllowedMethods: ['GET', 'HEAD'],
      AllowedHeaders: ['Range'],
      ExposeHeaders: ['Accept-Ranges', 'Content-Length', 'Content-Range', 'ETag'],
      MaxAgeSeconds: 3600,
    };
    await part(say, 'CORS', 'then no page may read with scripts; videos play all the same', async () => {
      await setCors(client, s3.bucket, rule);
      return `GET and HEAD, with Range, from ${origins.join(', ')}`;
    });
  }

  const expire: LifecycleRule = {
    ID: RETAIN_RULE,
    Status: 'Enabled',
    Filter: { Prefix: 'tasks/' },
    Expiration: { Days: retainDays },
  };
  const abort: LifecycleRule = {
    ID: UPLOADS_RULE,
    Status: 'Enabled',
    Filter: { Prefix: 'tasks/' },
    AbortIncompleteMultipartUpload: { DaysAfterInitiation: 1 },
  };
  await part(say, 'lifecycle', 'then nothing is deleted by itself: set that up where the store has it', async () => {
    const both = await setLifecycle(client, s3.bucket, [expire, abort]).catch((error) => {
      if (isUnknownTo(error)) return false;
      throw error;
    });
    if (both) return `tasks/ ends after ${retainDays} days, uploads that broke off after 1 day`;
    const one = await setLifecycle(client, s3.bucket, [expire]);
    if (!one) throw new StorageError('the store took the rule, and does not show it', 'NotImplemented', 1);
    return `tasks/ ends after ${retainDays} days; uploads that broke off stay: the store has no rule for them`;
  });
}

/** One part of the setup: done, or not to be had at this store, or not allowed. */
async function part(say: Say, name: string, without: string, set: () => Promise<string>) {
  try {
    say('ok', `${name}: ${await set()}`);
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
    if (isUnknownTo(error)) say('note', `${name}: the store has none of it (${error.message}); ${without}`);
    else if (isDenied(error)) say('missing', `${name}: ${error.message}`);
    else throw error;
  }
}

const isDenied = (error: unknown) =>
  error instanceof StorageError && ['AccessDenied', 'Forbidden'].includes(error.code);

/** Whether the store has no such feature, or not this form of it. */
const isUnknownTo = (error: unknown) =>
  error instanceof StorageError &&
  ['NotImplemented', 'MethodNotAllowed', 'MalformedXML', 'InvalidArgument', 'InvalidRequest'].includes(error.code);

async function setCors(client: S3Client, bucket: string, rule: CORSRule) {
  const { CORSRules = [] } = await client
    .send(new GetBucketCorsCommand({ Bucket: bucket }))
    .catch(noneIf('NoSuchCORSConfiguration'));
  const others = CORSRules.filter((other) => !isSame(other, rule));
  const CORSConfiguration = { CORSRules: [...others, rule] };
  await client.send(new PutBucketCorsCommand({ Bucket: bucket, CORSConfiguration }));
}

/** Some stores keep no ids of CORS rules. */
const isSame = (other: CORSRule, rule: CORSRule) =>
  other.ID ? other.ID === rule.ID : `${other.AllowedOrigins}` === `${rule.AllowedOrigins}`;

/** @returns whether the store shows the rules afterwards: some take what they don't know, and drop it */
async function setLifecycle(client: S3Client, bucket: string, rules: LifecycleRule[]): Promise<boolean> {
  const read = () =>
    client
      .send(new GetBucketLifecycleConfigurationCommand({ Bucket: bucket }))
      .catch(noneIf('NoSuchLifecycleConfiguration'));
  const { Rules = [], TransitionDefaultMinimumObjectSize } = await read();
  const others = Rules.filter(({ ID }) => ID !== RETAIN_RULE && ID !== UPLOADS_RULE);
  await client.send(
    new PutBucketLifecycleConfigurationCommand({
      Bucket: bucket,
      LifecycleConfiguration: { Rules: [...others, ...rules] },
      ...(TransitionDefaultMinimumObjectSize && { TransitionDefaultMinimumObjectSize }),
    }),
  );
  const { Rules: kept = [] } = await read();
  return rules.every((rule) =>
    kept.some(
      ({ Expiration, AbortIncompleteMultipartUpload: abort }) =>
        (rule.Expiration && Expiration?.Days === rule.Expiration.Days) ||
        (rule.AbortIncompleteMultipartUpload && abort?.DaysAfterInitiation === 1),
    ),
  );
}

interface None {
  CORSRules?: undefined;
  Rules?: undefined;
  TransitionDefaultMinimumObjectSize?: undefined;
}
const noneIf =
  (code: string) =>
  (error: unknown): None => {
    if (error instanceof StorageError && error.code === code) return {};
    throw error;
  };

// check

const FILM = Buffer.from('a film of 26 letters long.');
/** One part more than one. */
const LARGE = 9 * 2 ** 20;
const LINK_SECONDS = 600;

/** Where a step finds that something does not do what is needed. */
class Lacking extends Error {}

async function check({ s3, client, bucket }: Settings, say: Say) {
  const folder = `tasks/check-${randomUUID()}`;
  const key = `${folder}/video-1.mp4`;
  /** @param work may return something to know */
  const step = async (name: string, work: () => Promise<unknown>) => {
    try {
      const note = await work();
      if (typeof note === 'string') say('note', note);
      else say('ok', name);
    } catch (error) {
      if (!(error instanceof StorageError) && !(error instanceof Lacking)) throw error;
      say('missing', `${name}: ${error.message}`);
    }
  };

  await bucket.get(key).catch((error) => {
    if (!isDenied(error)) throw error; // where the store, the bucket or the keys are wrong, one line is enough
  });
  try {
    await step('writes (s3:PutObject)', () => bucket.put(key, FILM));
    await step('reads (s3:GetObject)', async () =>
      need((await bucket.get(key))?.equals(FILM), 'other bytes came back'),
    );
    await step('creates an object once, also when five do at once (If-None-Match)', () => createsOnce(bucket, folder));
    await step('uploads in parts, and gives up an upload (s3:AbortMultipartUpload)', () =>
      uploads(client, bucket, s3, folder),
    );
    const link = new URL(await bucket.link(key, Math.floor(Date.now() / 1000) + LINK_SECONDS));
    await step('links open in a browser, also in parts', () => linkOpens(link));
    await step('links that were changed are refused', () => tamperedRefused(link));
    await step('nobody reads without a link', () => isPrivate(link));
  } finally {
    await step('lists and deletes (s3:ListBucket, s3:DeleteObject)', async () => {
      await bucket.delete(folder);
      return need(!(await bucket.has(key)), 'what was deleted is still there');
    });
  }
}

/** @throws Lacking */
function need(fulfilled: boolean | undefined, otherwise: string): undefined {
  if (!fulfilled) throw new Lacking(otherwise);
}

async function createsOnce(bucket: Bucket, folder: string) {
  const consequence = 'of two jobs of one task both would think that theirs is the result';
  const wins = await Promise.all(Array.from({ length: 5 }, (_, i) => bucket.create(`${folder}/created`, `${i}`)));
  const count = wins.filter(Boolean).length;
  need(count === 1, `${count} of 5 created the same object; ${consequence}`);
  need(!(await bucket.create(`${folder}/created`, 'again')), `what was there was replaced; ${consequence}`);
}

async function uploads(client: S3Client, bucket: Bucket, { bucket: Bucket }: S3Options, folder: string) {
  const local = await mkdtemp(join(tmpdir(), 'bucket-check-'));
  try {
    const path = join(local, 'large');
    const bytes = randomBytes(LARGE);
    await writeFile(path, bytes);
    await bucket.putFile(`${folder}/large`, path);
    need((await bucket.get(`${folder}/large`))?.equals(bytes), 'other bytes came back');
  } finally {
    await rm(local, { recursive: true });
  }
  const object = { Bucket, Key: `${folder}/given-up` };
  const { UploadId } = await client.send(new CreateMultipartUploadCommand(object));
  await client.send(new AbortMultipartUploadCommand({ ...object, UploadId: UploadId! }));
}

async function linkOpens(link: URL) {
  const response = await read(link);
  if (response.status !== 200)
    throw new Lacking(
      /^s3api-.*\.runpod\.io$/.test(link.hostname)
        ? 'RunPod’s own S3 (network volumes) makes no links; take another store for the bucket'
        : `a link is answered with ${response.status}; the store must know presigned URLs (Signature Version 4)`,
    );
  need(Buffer.from(await response.arrayBuffer()).equals(FILM), 'a link leads to other bytes');
  const encoding = response.headers.get('content-encoding');
  need(encoding === null, `what was written comes back as ${encoding}, which no browser plays`);
  need(
    response.headers.get('content-type') === 'video/mp4',
    'a link does not set the content type (response-content-type)',
  );
  need(
    response.headers.get('content-disposition') === 'inline; filename="video-1.mp4"',
    'a link does not set the file’s name (response-content-disposition)',
  );
  const range = await read(link, { range: 'bytes=2-5' });
  need(
    range.status === 206 && (await range.text()) === 'film',
    'no parts (Range): a browser could not seek in a video',
  );
}

async function tamperedRefused(link: URL) {
  for (const [name, value] of link.searchParams) {
    if (!/^X-Amz-(Signature|Expires|Date)$/.test(name)) continue;
    const changed = new URL(link);
    changed.searchParams.set(name, (value[0] === '7' ? '8' : '7') + value.slice(1));
    need((await read(changed)).status >= 400, `a link with another ${name} opens`);
  }
  const other = new URL(link);
  other.pathname = other.pathname.replace('video-1.mp4', 'created');
  need((await read(other)).status >= 400, 'a link opens another object');
}

async function isPrivate({ origin, pathname }: URL) {
  if ((await read(new URL(pathname, origin))).ok)
    return 'the bucket is public: whoever guesses an address reads it, without a link';
}

async function read(url: URL, headers: Record<string, string> = {}): Promise<Response> {
  try {
    return await fetch(url, { headers, redirect: 'manual', signal: AbortSignal.timeout(30_000) });
  } catch {
    throw new Lacking(`a link to ${url.host} can’t be fetched`);
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  process.exitCode = await main(process.argv.slice(2), { env: process.env, out: process.stdout, err: process.stderr });
}
