/** Which errors of an S3 store can be retried, and how the others are explained. */
import { HOUR, MINUTE } from '../time.ts';
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

/** Network errors that a retry does not cure: not an S3 server, no such host, or a certificate that is not trusted. */
const PERMANENT_NETWORK_ERROR = /^(ERR_|EPROTO|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO|HOSTNAME_MISMATCH|ENOENT|EACCES)/;

/** Codes of temporary refusals, and for a body that was damaged on its way. */
const TEMPORARY =
  /^(SlowDown|Throttling(Exception)?|TooManyRequests|RequestTimeout|ConditionalRequestConflict|OperationAborted|InternalError|ServiceUnavailable|BadDigest|InvalidDigest|IncompleteBody|XAmzContentSHA256Mismatch)$/;

/** Whether the same request may succeed a little later. */
export function isRetryable(error: unknown): boolean {
  const failure = error as Failure;
  const status = getStatus(failure);
  if (TEMPORARY.test(getCode(failure))) return true;
  if (status === undefined && failure.name === 'TimeoutError') return true;
  if (status === undefined) return failure.code !== undefined && !PERMANENT_NETWORK_ERROR.test(failure.code);
  if (status === 501 || isFull(failure)) return false;
  return status === 408 || status === 429 || status >= 500;
}

const isFull = (failure: Failure) =>
  getStatus(failure) === 507 || /Quota|StorageFull|InsufficientStorage|CapExceeded/i.test(getCode(failure));

interface RequestContext {
  /** S3's name of the operation, such as GetObject */
  request: string;
  attempts: number;
  bucket: string;
  host: string;
  region: string;
  /** milliseconds since 1970 */
  now: () => number;
}

/**
 * An error of the store as a StorageError with a message of our own: the store's may repeat what was signed, with keys in it.
 * A programming error is returned unchanged.
 */
export function toStorageError(error: unknown, context: RequestContext): unknown {
  const failure = error as Failure;
  if (getStatus(failure) === undefined && failure.code === undefined && failure.name !== 'TimeoutError') return error;
  return new StorageError(explain(failure, context), getCode(failure), context.attempts);
}

function explain(failure: Failure, { request, attempts, bucket, host, region, now }: RequestContext): string {
  const status = getStatus(failure);
  const code = getCode(failure);
  const times = attempts > 1 ? `, ${attempts} times in a row` : '';
  if (status === undefined) {
    if (code === 'TimeoutError') return `the bucket’s store at ${host} does not answer in time${times}`;
    return `the bucket’s store at ${host} can’t be reached (${code})${times}`;
  }
  if (isFull(failure)) return `the bucket ${bucket} at ${host} has no space left, or its quota is used up`;
  switch (code) {
    case 'NoSuchBucket':
      return `there is no bucket ${bucket} at ${host} (BUCKET_NAME)`;
    case 'InvalidAccessKeyId':
    case 'XAdminUserNotFound': // versitygw's code
      return `${host} does not know the access key (BUCKET_ACCESS_KEY_ID)`;
    case 'SignatureDoesNotMatch':
      return `${host} refuses the signature: the secret is not that of the access key (BUCKET_SECRET_ACCESS_KEY)`;
    case 'ExpiredToken':
    case 'InvalidToken':
      return `${host} refuses the session token (AWS_SESSION_TOKEN): it has expired or is malformed`;
    case 'RequestTimeTooSkewed':
      return `this machine’s clock is ${formatSkew(now() - Date.parse(failure.$response?.headers?.date ?? ''))} the clock of ${host}`;
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
        request === 'GetObject'
          ? ' (or the object is missing, and without s3:ListBucket the store does not say so)'
          : ''
      }`;
    case 'NotImplemented':
      return `${host} does not support ${request}, or not with these options`;
  }
  if (status < 300) return `${host} does not answer like an S3 store (BUCKET_ENDPOINT_URL)`;
  return `${host} answered ${status} ${code} to ${request}${times}`;
}

/** Codes of responses without one, as another kind of server sends them. */
const CODES_BY_STATUS: Record<number, string> = {
  403: 'Forbidden',
  404: 'NotFound',
  412: 'PreconditionFailed',
  501: 'NotImplemented',
};

/** The store's error code, or the network's; without one, a code for the status. */
function getCode(failure: Failure): string {
  const status = getStatus(failure);
  if (status === undefined) return failure.code ?? failure.name ?? 'unknown'; // the SDK also names a reset TimeoutError
  const { name = '' } = failure;
  const isSdkName = name !== 'InternalError' && (!/^[A-Z]\w+$/.test(name) || /Error$|^Unknown$/.test(name));
  return isSdkName ? (CODES_BY_STATUS[status] ?? 'without a code') : name;
}

const getStatus = ({ $metadata, $response }: Failure) => $metadata?.httpStatusCode ?? $response?.statusCode;

/** @param ahead milliseconds; negative where the clock is behind */
function formatSkew(ahead: number): string {
  if (Number.isNaN(ahead)) return 'far from';
  const skew = Math.abs(ahead);
  const amount = skew < 2 * HOUR ? `${Math.round(skew / MINUTE)} minutes` : `${Math.round(skew / HOUR)} hours`;
  return `${amount} ${ahead > 0 ? 'ahead of' : 'behind'}`;
}

/** Permissions whose names differ from the operation's. */
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

/** The permission that a policy must grant for an operation: `s3:PutObject` for UploadPart. */
const requiredPermission = (request: string) => `s3:${PERMISSIONS[request] ?? request}`;
