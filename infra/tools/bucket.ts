/** `npm run bucket`: sets up and checks the environment's S3 bucket. */
import { setTimeout as delay } from 'node:timers/promises';
import {
  type CORSRule,
  GetBucketCorsCommand,
  GetBucketLifecycleConfigurationCommand,
  type LifecycleRule,
  PutBucketCorsCommand,
  PutBucketLifecycleConfigurationCommand,
} from '@aws-sdk/client-s3';
import * as v from 'valibot';
import { StorageError } from '../../core/bucket/bucket.ts';
import { resolveS3Options } from '../../core/bucket/open-bucket.ts';
import { s3Bucket, s3Client } from '../../core/bucket/s3.ts';
import { httpUrl, integer, readEnvironment, sharedVariables } from '../../core/environment.ts';
import { formatCount } from '../../core/format.ts';
import { checkBucket, isDenied, type Report } from './bucket-check.ts';
import { type CliIo, defineCommand, runIfMain } from './command.ts';

/** An operator waits: the pause before a retry is at most this long. Milliseconds. */
const MAX_RETRY_PAUSE = 500;

const ACTIONS = {
  setup: {
    help: `lets the page at PUBLIC_URL (or CORS_ORIGINS, separated by commas) read the bucket; sets rules by which the
store deletes tasks after RETAIN_DAYS (30) and unfinished uploads after a day; keeps all other rules`,
    run: withReport(setUpBucket),
  },
  check: {
    help: 'tries everything that the service does with the bucket, reports each step, and deletes what it wrote',
    run: withReport(checkBucket),
  },
};
const NOTES =
  'These variables name the bucket:\nBUCKET_NAME, BUCKET_ENDPOINT_URL, BUCKET_ACCESS_KEY_ID, BUCKET_SECRET_ACCESS_KEY and BUCKET_REGION.';

/** @returns the exit status: 1 also where something that the service needs is missing */
export const main = defineCommand('npm run bucket', ACTIONS, NOTES);

type Settings = ReturnType<typeof readSettings>;

function withReport(work: (settings: Settings, report: Report) => Promise<void>) {
  return async ({ env, out }: CliIo): Promise<number> => {
    let status = 0;
    await work(readSettings(env), (state, text) => {
      if (state === 'missing') status = 1;
      out.write(`${state.padEnd(8)} ${text}\n`);
    });
    return status;
  };
}

const URL_LIST = v.pipe(
  v.string(),
  v.transform((text) => text.split(',').map((url) => url.trim())),
  v.check((urls) => urls.every((url) => v.is(httpUrl, url)), 'must be http or https URLs, separated by commas'),
);

export const BUCKET_VARIABLES = {
  ...sharedVariables,
  PUBLIC_URL: v.optional(httpUrl),
  CORS_ORIGINS: v.optional(URL_LIST),
  RETAIN_DAYS: integer(30, 1, 3650),
};

function readSettings(environment: NodeJS.ProcessEnv) {
  const env = readEnvironment(BUCKET_VARIABLES, environment);
  const s3 = resolveS3Options(env);
  if (!s3) throw new Error('BUCKET_NAME is needed: without it the bucket is a folder, which needs no setup');
  const urls = env.CORS_ORIGINS ?? (env.PUBLIC_URL ? [env.PUBLIC_URL] : []);
  const origins = urls.map((url) => new URL(url).origin);
  const tuning = { wait: (time: number) => delay(Math.min(time, MAX_RETRY_PAUSE)) };
  return { s3, origins, retainDays: env.RETAIN_DAYS, client: s3Client(s3, tuning), bucket: s3Bucket(s3, tuning) };
}

async function setUpBucket(settings: Settings, report: Report): Promise<void> {
  const { origins, retainDays } = settings;
  /** @param consequence of the store's lack of this feature */
  const step = async (feature: string, consequence: string, work: () => Promise<string>) => {
    try {
      report('ok', `${feature}: ${await work()}`);
    } catch (error) {
      if (isUnsupported(error)) report('note', `${feature}: not supported (${error.message}); ${consequence}`);
      else if (isDenied(error)) report('missing', `${feature}: ${error.message}`);
      else throw error;
    }
  };

  if (origins.length === 0)
    report('note', 'CORS: unchanged; set PUBLIC_URL or CORS_ORIGINS to let the page there read');
  else
    await step('CORS', 'pages can’t read with scripts; videos still play', async () => {
      await setCors(settings);
      return `GET and HEAD, with Range, from ${origins.join(', ')}`;
    });

  await step('lifecycle', 'nothing is deleted automatically: configure that at the store itself', async () => {
    const retainRule = { ...TASKS, ID: 'img2vid-retain', Expiration: { Days: retainDays } };
    const retention = `tasks/ expires after ${formatCount(retainDays, 'day')}`;
    try {
      if (await setLifecycle(settings, [retainRule, UPLOADS_RULE]))
        return `${retention}, unfinished uploads after 1 day`;
    } catch (error) {
      if (!isUnsupported(error)) throw error;
    }
    if (await setLifecycle(settings, [retainRule]))
      return `${retention}; unfinished uploads stay: the store has no rule for them`;
    throw new StorageError('the store accepts the rule and drops it', 'NotImplemented', 1);
  });
}

/** Whether the store has no such feature, or not this form of it. */
const isUnsupported = (error: unknown): error is StorageError =>
  error instanceof StorageError &&
  ['NotImplemented', 'MethodNotAllowed', 'MalformedXML', 'InvalidArgument', 'InvalidRequest'].includes(error.code);

/** Some stores keep no ids of CORS rules: there the rule with the same origins is ours. */
async function setCors({ client, s3: { bucket: Bucket }, origins }: Settings): Promise<void> {
  const ours: CORSRule = {
    ID: 'img2vid-page',
    AllowedOrigins: origins,
    AllowedMethods: ['GET', 'HEAD'],
    AllowedHeaders: ['Range'],
    ExposeHeaders: ['Accept-Ranges', 'Content-Length', 'Content-Range', 'ETag'],
    MaxAgeSeconds: 3600,
  };
  const found = await client.send(new GetBucketCorsCommand({ Bucket })).catch(ignore('NoSuchCORSConfiguration'));
  const others = (found?.CORSRules ?? []).filter(({ ID, AllowedOrigins }) =>
    ID ? ID !== ours.ID : `${AllowedOrigins}` !== `${origins}`,
  );
  await client.send(new PutBucketCorsCommand({ Bucket, CORSConfiguration: { CORSRules: [...others, ours] } }));
}

const TASKS = { Status: 'Enabled', Filter: { Prefix: 'tasks/' } } as const;
const UPLOADS_RULE = { ...TASKS, ID: 'img2vid-uploads', AbortIncompleteMultipartUpload: { DaysAfterInitiation: 1 } };

/** @returns whether the store shows the rules afterwards: some accept rules that they don't know, and drop them */
async function setLifecycle({ client, s3: { bucket: Bucket } }: Settings, ours: LifecycleRule[]): Promise<boolean> {
  const command = new GetBucketLifecycleConfigurationCommand({ Bucket });
  const read = () => client.send(command).catch(ignore('NoSuchLifecycleConfiguration'));
  const { Rules, TransitionDefaultMinimumObjectSize } = (await read()) ?? {};
  const others = (Rules ?? []).filter(({ ID }) => !/^img2vid-(retain|uploads)$/.test(ID ?? ''));
  await client.send(
    new PutBucketLifecycleConfigurationCommand({
      Bucket,
      LifecycleConfiguration: { Rules: [...others, ...ours] },
      ...(TransitionDefaultMinimumObjectSize && { TransitionDefaultMinimumObjectSize }),
    }),
  );
  const kept = (await read())?.Rules ?? [];
  const actionOf = (rule: LifecycleRule) =>
    `${rule.Expiration?.Days} ${rule.AbortIncompleteMultipartUpload?.DaysAfterInitiation}`;
  return ours.every((rule) => kept.some((one) => actionOf(one) === actionOf(rule)));
}

/** For stores that report the absence of rules as an error. */
const ignore = (code: string) => (error: unknown) => {
  if (!(error instanceof StorageError) || error.code !== code) throw error;
};

await runIfMain(import.meta.url, main);
