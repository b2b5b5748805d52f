/** Schemas of environment variables. Each process reads them once, in handler/worker.ts or api/config.ts; variables.ts describes all. */
import { join } from 'node:path';
import * as v from 'valibot';
import { MODELS } from './job.ts';
import type { VariableName } from './variables.ts';

/** 0 or 1; absent means 0. */
export const flag = v.pipe(
  v.optional(v.picklist(['0', '1'], 'must be 0 or 1'), '0'),
  v.transform((text) => text === '1'),
);

const number = (min: number, max: number) => {
  const allowed = `must be a whole number from ${min} to ${max}`;
  return v.pipe(v.string(), v.digits(allowed), v.transform(Number), v.minValue(min, allowed), v.maxValue(max, allowed));
};

/** A whole number with a default. */
export const integer = (fallback: number, min: number, max: number) => v.optional(number(min, max), String(fallback));
/** A whole number, or undefined. */
export const optionalInteger = (min: number, max: number) => v.optional(number(min, max));

/** An http or https URL, without trailing slashes. */
export const httpUrl = v.pipe(
  v.string(),
  v.regex(/^https?:\/\//, 'must be an http or https URL'),
  v.url('must be an http or https URL'),
  v.transform((url) => url.replace(/\/+$/, '')),
);

export const modelName = v.picklist(MODELS, `must be one of ${MODELS.join(', ')}`);

/** The variables that both the API and the worker read. */
export const sharedVariables = {
  DATA_DIR: v.optional(v.string(), 'data'),
  // bucket/open-bucket.ts resolves the bucket from these.
  BUCKET_NAME: v.optional(v.string()),
  BUCKET_ENDPOINT_URL: v.optional(v.string()),
  BUCKET_ACCESS_KEY_ID: v.optional(v.string()),
  BUCKET_SECRET_ACCESS_KEY: v.optional(v.string()),
  BUCKET_REGION: v.optional(v.string()),
  AWS_ENDPOINT_URL_S3: v.optional(v.string()),
  AWS_ENDPOINT_URL: v.optional(v.string()),
  AWS_ACCESS_KEY_ID: v.optional(v.string()),
  AWS_SECRET_ACCESS_KEY: v.optional(v.string()),
  AWS_SESSION_TOKEN: v.optional(v.string()),
  AWS_REGION: v.optional(v.string()),
  AWS_DEFAULT_REGION: v.optional(v.string()),
  ALLOW_PRIVATE_URLS: flag,
  /** seconds that a bridge may take */
  STILL_TIMEOUT: integer(600, 1, 3600),
};

export const bucketFolder = (dataDir: string) => join(dataDir, 'bucket');

/**
 * Validates a process's environment. An empty variable counts as absent.
 * @throws Error that names every invalid variable and the values that are allowed
 */
export function readEnvironment<E extends v.ObjectEntries>(
  entries: E & { [Name in Exclude<keyof E, VariableName>]: 'has no row in core/variables.ts' },
  environment: NodeJS.ProcessEnv,
) {
  const given = Object.fromEntries(Object.entries(environment).filter(([, value]) => value !== ''));
  const { success, output, issues } = v.safeParse(v.object<E>(entries), given);
  if (!success) {
    const problems = issues.map(
      (issue) => `${v.getDotPath(issue)} ${issue.type === 'object' ? 'is needed' : issue.message}`,
    );
    throw new Error([...new Set(problems)].join('; '));
  }
  return output;
}
