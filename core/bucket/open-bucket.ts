/** Opens the bucket that the environment names: at an S3 store, or a folder of this machine. */
import type * as v from 'valibot';
import { bucketFolder, type sharedVariables } from '../environment.ts';
import type { Bucket } from './bucket.ts';
import { type DiskBucket, diskBucket } from './disk.ts';
import type { S3Options } from './s3.ts';

type Shared = v.InferOutput<v.ObjectSchema<typeof sharedVariables, undefined>>;

/** The variables that name the bucket, as `readEnvironment` returns them. */
export type BucketEnvironment = Pick<Shared, 'DATA_DIR' | Extract<keyof Shared, `${'BUCKET' | 'AWS'}_${string}`>>;

/**
 * Sends no request to the store yet.
 * @param publicUrl the API's own URL, without a trailing slash: a folder's links lead there
 * @param retryBudget how long a failing request is retried, in milliseconds; default 2 minutes
 * @param now milliseconds since 1970
 * @returns `disk` where the bucket is a folder: the API then serves it at `/files`
 * @throws Error that names the variable
 */
export async function openBucket(
  env: BucketEnvironment,
  { publicUrl, retryBudget, now = Date.now }: { publicUrl: string; retryBudget?: number; now?: () => number },
): Promise<{ bucket: Bucket; disk: DiskBucket | undefined }> {
  const s3 = resolveS3Options(env);
  if (s3) {
    const { s3Bucket } = await import('./s3.ts'); // takes 0.1 s to load
    return { bucket: s3Bucket(s3, { retryBudget, now }), disk: undefined };
  }
  const disk = await diskBucket(bucketFolder(env.DATA_DIR), { publicUrl, retryBudget, now });
  return { bucket: disk, disk };
}

const BUCKET_NAME = /^(?!.*\.\.)(?![\d.]+$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/;

/** Hosts that begin with the bucket's name, as in RunPod's documentation of BUCKET_ENDPOINT_URL. */
const BUCKET_HOST = new RegExp(
  `^(?<bucket>.+)\\.(?<store>${[
    's3(?:[.-][a-z0-9.-]+)?\\.amazonaws\\.com(?:\\.cn)?',
    '[0-9a-f]{32}(?:\\.[a-z]+)?\\.r2\\.cloudflarestorage\\.com',
    's3\\.[a-z0-9-]+\\.backblazeb2\\.com',
    '[a-z]+\\d\\.digitaloceanspaces\\.com',
  ].join('|')})$`,
);

/** Hosts that contain their region. */
const REGION_HOST = /^s3(?:\.dualstack)?[.-](?<region>[a-z]+-[a-z0-9-]+)\.(?:amazonaws|backblazeb2)\.com/;

/**
 * Resolves the BUCKET_ variables, with the AWS_ ones as fallback. AWS_ variables alone select no bucket: they may serve something else.
 * @returns undefined where the bucket is a folder
 * @throws Error that names the variable
 */
export function resolveS3Options(env: BucketEnvironment): S3Options | undefined {
  const endpoint = resolveEndpoint(env);
  const { bucket: named, store } = endpoint?.hostname.match(BUCKET_HOST)?.groups ?? {};
  const bucket = env.BUCKET_NAME ?? (env.BUCKET_ENDPOINT_URL && named);
  if (!bucket) {
    const rest = ['BUCKET_ENDPOINT_URL', 'BUCKET_ACCESS_KEY_ID', 'BUCKET_SECRET_ACCESS_KEY', 'BUCKET_REGION'] as const;
    const given = rest.find((name) => env[name] !== undefined);
    if (given)
      throw new Error(
        `BUCKET_NAME is needed with ${given}; to use a folder in DATA_DIR instead, set no BUCKET_ variable`,
      );
    return undefined;
  }
  if (!BUCKET_NAME.test(bucket))
    throw new Error('BUCKET_NAME must be a bucket’s name: 3 to 63 lower-case letters, digits, hyphens and dots');
  if (named && named !== bucket)
    throw new Error(`BUCKET_ENDPOINT_URL names the bucket ${named}, but BUCKET_NAME is ${bucket}`);
  if (endpoint) {
    endpoint.hostname = store ?? endpoint.hostname;
    const path = endpoint.pathname.replace(/\/+$/, '');
    endpoint.pathname = path.endsWith(`/${bucket}`) ? path.slice(0, -bucket.length) : path;
  }
  return {
    bucket,
    endpoint: endpoint?.href.replace(/\/+$/, ''),
    region: resolveRegion(env, endpoint?.hostname ?? ''),
    ...resolveKeys(env),
  };
}

function resolveEndpoint(env: BucketEnvironment): URL | undefined {
  const names = ['BUCKET_ENDPOINT_URL', 'AWS_ENDPOINT_URL_S3', 'AWS_ENDPOINT_URL'] as const;
  const name = names.find((candidate) => env[candidate] !== undefined);
  if (!name || (name !== 'BUCKET_ENDPOINT_URL' && !env.BUCKET_NAME)) return undefined;
  const text = env[name]!;
  const url = /^https?:\/\//.test(text) && URL.canParse(text) ? new URL(text) : undefined;
  if (!url || url.username || url.password || url.search || url.hash)
    throw new Error(`${name} must be an http or https URL, without keys or a query`); // not quoted: it may contain a key
  return url;
}

/** BUCKET_REGION, else the region in the host, else AWS_REGION. */
function resolveRegion(env: BucketEnvironment, host: string): string {
  const hostRegion = host.endsWith('.r2.cloudflarestorage.com') ? 'auto' : host.match(REGION_HOST)?.groups?.region;
  const region = env.BUCKET_REGION ?? hostRegion ?? env.AWS_REGION ?? env.AWS_DEFAULT_REGION ?? 'us-east-1';
  if (!/^[A-Za-z0-9-]{1,63}$/.test(region)) {
    const name = (['BUCKET_REGION', 'AWS_REGION'] as const).find((candidate) => env[candidate] === region);
    throw new Error(`${name ?? 'AWS_DEFAULT_REGION'} must be a region, such as eu-central-1`);
  }
  return region;
}

/** The key id and its secret, both from BUCKET_ variables or both from AWS_ ones. */
function resolveKeys(env: BucketEnvironment): Pick<S3Options, 'accessKeyId' | 'secretAccessKey' | 'sessionToken'> {
  const isOwn = env.BUCKET_ACCESS_KEY_ID !== undefined || env.BUCKET_SECRET_ACCESS_KEY !== undefined;
  const accessKeyId = isOwn ? env.BUCKET_ACCESS_KEY_ID : env.AWS_ACCESS_KEY_ID;
  const secretAccessKey = isOwn ? env.BUCKET_SECRET_ACCESS_KEY : env.AWS_SECRET_ACCESS_KEY;
  if (!accessKeyId || !secretAccessKey) {
    const missing = accessKeyId ? 'BUCKET_SECRET_ACCESS_KEY' : 'BUCKET_ACCESS_KEY_ID';
    throw new Error(`${missing} is needed for the bucket ${env.BUCKET_NAME ?? 'of BUCKET_ENDPOINT_URL'}`);
  }
  return { accessKeyId, secretAccessKey, sessionToken: isOwn ? undefined : env.AWS_SESSION_TOKEN };
}
