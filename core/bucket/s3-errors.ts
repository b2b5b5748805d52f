/** What a store's errors mean: which of them pass, and what to say of those that don't. */
import { StorageError } from './bucket.ts';

/** What the SDK throws, or Node below it. */
interface Failure {
  name?: string;
  code?: string;
  message?: string;
  /** of errors about the region */
  Region?: string;
  $metadata?: { httpStatusCode?: number };
  $response?: { statusCode?: number; headers?: Record<string, string> };
}

/** The network's errors that more tries don't cure: an address of another kind of server, or a certificate that is not trusted. */
const LASTING = /^(ERR_|EPROTO|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO|HOSTNAME_MISMATCH|ENOENT|EACCES)/;

/** Refusals that hold for the moment only; the last four say that the body was spoilt on its way. */
const MOMENTARY = [
  'SlowDown',
  'Throttling',
  'ThrottlingException',
  'TooManyRequests',
  'RequestTimeout',
  'ConditionalRequestConflict',
  'OperationAborted',
  'InternalError',
  'ServiceUnavailable',
  'BadDigest',
  'InvalidDigest',
  'IncompleteBody',
  'XAmzContentSHA256Mismatch',
];

/** Whether the same request may go through a little later. */
export function isRetryable(error: unknown): boolean {
  const failure = error as Failure;
  const status = statusOf(failure);
  if (MOMENTARY.includes(codeOf(failure))) return true;
  if (status !== undefined)
    return status === 408 || status === 429 || (status >= 500 && !isLasting5xx(failure, status));
  return failure.name === 'TimeoutError' || (failure.code !== undefined && !LASTING.test(failure.code));
}

const isLasting5xx = (failure: Failure, status: number) => status === 501 || isFull(failure, status);

const isFull = (failure: Failure, status: number | undefined) =>
  status === 507 || /Quota|StorageFull|InsufficientStorage|CapExceeded/i.test(codeOf(failure));

interface Circumstances {
  /** S3's name of it */
  request: string;
  attempts: number;
  bucket: string;
  host: string;
  region: string;
  /** milliseconds since 1970 */
  now: () => number;
}

/**
 * Errors in one line each. They are written anew, never passed on: the store's own may repeat what was signed, with keys in it.
 * What is thrown by a mistake in the program stays as it is.
 */
export function toStorageError(error: unknown, { request, attempts, ...where }: Circumstances): unknown {
  const failure = error as Failure;
  if (statusOf(failure) === undefined && failure.code === undefined && failure.name !== 'TimeoutError') return error;
  return new StorageError(explain(failure, request, attempts, where), codeOf(failure), attempts);
}

function explain(
  failure: Failure,
  request: string,
  attempts: number,
  { bucket, host, region, now }: Omit<Circumstances, 'request' | 'attempts'>,
): string {
  const status = statusOf(failure);
  const code = codeOf(failure);
  const tried = attempts > 1 ? `, ${attempts} times in a row` : '';
  if (status === undefined) {
    if (code === 'TimeoutError') return `the bucket’s store at ${host} does not answer in time${tried}`;
    return `the bucket’s store at ${host} can’t be reached (${code})${tried}`;
  }
  if (isFull(failure, status)) return `the bucket ${bucket} at ${host} has no space left, or its quota is used up`;
  switch (code) {
    case 'NoSuchBucket':
      return `there is no bucket ${bucket} at ${host} (BUCKET_NAME)`;
    case 'InvalidAccessKeyId':
    case 'XAdminUserNotFound': // versitygw's word
      return `${host} does not know the access key (BUCKET_ACCESS_KEY_ID)`;
    case 'SignatureDoesNotMatch':
      return `${host} refuses the signature: the secret is not that of the access key (BUCKET_SECRET_ACCESS_KEY)`;
    case 'ExpiredToken':
    case 'InvalidToken':
      return `${host} refuses the session token (AWS_SESSION_TOKEN): it has expired, or is not one`;
    case 'RequestTimeTooSkewed':
      return `this machine’s clock is ${inWords(now() - Date.parse(failure.$response?.headers?.date ?? ''))} the one of ${host}`;
    case 'PermanentRedirect':
    case 'AuthorizationHeaderMalformed':
    case 'IllegalLocationConstraintException': {
      const right = failure.Region ?? failure.$response?.headers?.['x-amz-bucket-region'];
      return `the bucket ${bucket} is not in the region ${region} (BUCKET_REGION)${right ? `, but in ${right}` : ''}`;
    }
    case 'AccessDenied':
    case 'Forbidden':
    case 'AllAccessDisabled':
      return `the access key may not ${requiredPermission(request)} in the bucket ${bucket} at ${host}${
        request === 'GetObject' ? ' (or the object is missing, and it may not s3:ListBucket, which would tell)' : ''
      }`;
    case 'NotImplemented':
      return `${host} does not know ${request}, or not in this form`;
  }
  if (status < 300) return `${host} answers, but not as an S3 store does (BUCKET_ENDPOINT_URL)`;
  return `${host} answered ${status} ${code} to ${request}${tried}`;
}

/** S3's name of an error, or the network's. Where an answer has none, as when another kind of server sent it, its status. */
function codeOf(failure: Failure): string {
  const status = statusOf(failure);
  if (status === undefined) return failure.code ?? failure.name ?? 'unknown'; // the SDK calls resets, too, a TimeoutError
  const { name = '' } = failure;
  if (name === 'InternalError' || (/^[A-Z]\w+$/.test(name) && !/Error$|^Unknown$/.test(name))) return name; // else the SDK's own
  return STATUSES[status] ?? 'without a code';
}

const STATUSES: Record<number, string> = {
  403: 'Forbidden',
  404: 'NotFound',
  412: 'PreconditionFailed',
  501: 'NotImplemented',
};

const statusOf = ({ $metadata, $response }: Failure) => $metadata?.httpStatusCode ?? $response?.statusCode;

/** @param ahead milliseconds; negative where the clock is behind */
function inWords(ahead: number): string {
  if (Number.isNaN(ahead)) return 'far from';
  const minutes = Math.round(Math.abs(ahead) / 60_000);
  const long = minutes < 120 ? `${minutes} minutes` : `${Math.round(minutes / 60)} hours`;
  return `${long} ${ahead > 0 ? 'ahead of' : 'behind'}`;
}

/** What a policy must allow for a request, where it is not called alike. */
const PERMISSIONS: Record<string, string> = {
  UploadPart: 'PutObject',
  CreateMultipartUpload: 'PutObject',
  CompleteMultipartUpload: 'PutObject',
  HeadObject: 'GetObject',
  DeleteObjects: 'DeleteObject',
  ListObjectsV2: 'ListBucket',
  ListMultipartUploads: 'ListBucketMultipartUploads',
  GetBucketCors: 'GetBucketCORS',
  PutBucketCors: 'PutBucketCORS',
  GetBucketLifecycleConfiguration: 'GetLifecycleConfiguration',
  PutBucketLifecycleConfiguration: 'PutLifecycleConfiguration',
};
export const requiredPermission = (request: string) => `s3:${PERMISSIONS[request] ?? request}`;
