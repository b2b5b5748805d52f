import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { readEnvironment, sharedVariables } from '../environment.ts';
import { openBucket, resolveS3Options } from './open-bucket.ts';

const options = (environment: NodeJS.ProcessEnv) => resolveS3Options(readEnvironment(sharedVariables, environment));
const KEYS = { BUCKET_ACCESS_KEY_ID: 'id', BUCKET_SECRET_ACCESS_KEY: 'secret' };
const AWS = { AWS_ACCESS_KEY_ID: 'aws-id', AWS_SECRET_ACCESS_KEY: 'aws-secret', AWS_SESSION_TOKEN: 'token' };
const R2 = '0123456789abcdef0123456789abcdef.r2.cloudflarestorage.com';

describe('openBucket', () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'open-'));
  });
  afterEach(() => rm(folder, { recursive: true }));
  const publicUrl = 'http://127.0.0.1:5000';
  const open = (environment: NodeJS.ProcessEnv) =>
    openBucket(readEnvironment(sharedVariables, { DATA_DIR: folder, ...environment }), { publicUrl });

  test('opens a folder without BUCKET_NAME', async () => {
    const { bucket, disk } = await open({ ...AWS, AWS_REGION: 'eu-central-1', AWS_ENDPOINT_URL: 'of something else' });
    expect(bucket).toBe(disk);
    expect(await bucket.link('a.mp4', 2_000_000_000)).toMatch(/^http:\/\/127\.0\.0\.1:5000\/files\/a\.mp4\?/);
    expect(existsSync(join(folder, 'bucket'))).toBe(true);
  });

  test('opens a store with BUCKET_NAME', async () => {
    const { bucket, disk } = await open({
      BUCKET_NAME: 'films',
      BUCKET_ENDPOINT_URL: 'http://127.0.0.1:9000',
      ...KEYS,
    });
    expect(disk).toBeUndefined();
    expect(await bucket.link('a.mp4', 2_000_000_000)).toMatch(/^http:\/\/127\.0\.0\.1:9000\/films\/a\.mp4\?/);
    expect(existsSync(join(folder, 'bucket'))).toBe(false);
  });
});

describe('resolveS3Options', () => {
  test('AWS_ variables are the fallback of BUCKET_ ones, and keys come as pairs', () => {
    const named = { BUCKET_NAME: 'films', ...AWS };
    expect(
      options({ ...named, AWS_ENDPOINT_URL: 'http://a.example', AWS_ENDPOINT_URL_S3: 'http://s3.example' }),
    ).toEqual({
      bucket: 'films',
      endpoint: 'http://s3.example',
      region: 'us-east-1',
      accessKeyId: 'aws-id',
      secretAccessKey: 'aws-secret',
      sessionToken: 'token',
    });
    expect(
      options({ ...named, ...KEYS, BUCKET_ENDPOINT_URL: 'http://own.example/', AWS_ENDPOINT_URL_S3: 'nonsense' }),
    ).toEqual({
      bucket: 'films',
      endpoint: 'http://own.example',
      region: 'us-east-1',
      accessKeyId: 'id',
      secretAccessKey: 'secret',
      sessionToken: undefined,
    });
  });

  test.each<[NodeJS.ProcessEnv, string]>([
    [{}, 'us-east-1'],
    [{ AWS_DEFAULT_REGION: 'eu-west-1' }, 'eu-west-1'],
    [{ AWS_DEFAULT_REGION: 'eu-west-1', AWS_REGION: 'eu-west-2' }, 'eu-west-2'],
    [{ AWS_REGION: 'eu-west-2', BUCKET_REGION: 'EU-RO-1' }, 'EU-RO-1'],
    [{ AWS_REGION: 'eu-west-2', BUCKET_ENDPOINT_URL: `https://${R2}` }, 'auto'],
    [{ AWS_REGION: 'eu-west-2', BUCKET_ENDPOINT_URL: 'https://s3.us-west-004.backblazeb2.com' }, 'us-west-004'],
    [{ AWS_REGION: 'eu-west-2', BUCKET_ENDPOINT_URL: 'https://s3.dualstack.eu-north-1.amazonaws.com' }, 'eu-north-1'],
    [{ BUCKET_ENDPOINT_URL: 'https://s3.amazonaws.com' }, 'us-east-1'],
    [{ BUCKET_REGION: 'eu-west-3', BUCKET_ENDPOINT_URL: 'https://s3.us-west-004.backblazeb2.com' }, 'eu-west-3'],
  ])('%j is in %s', (given, region) => {
    expect(options({ BUCKET_NAME: 'films', ...KEYS, ...given })?.region).toBe(region);
  });

  test.each([
    ['https://films.s3.eu-central-1.amazonaws.com', 'https://s3.eu-central-1.amazonaws.com'],
    ['https://films.s3.amazonaws.com/', 'https://s3.amazonaws.com'],
    ['https://films.s3-eu-west-1.amazonaws.com', 'https://s3-eu-west-1.amazonaws.com'],
    ['https://films.nyc3.digitaloceanspaces.com', 'https://nyc3.digitaloceanspaces.com'],
    ['https://films.s3.us-west-004.backblazeb2.com', 'https://s3.us-west-004.backblazeb2.com'],
    [`https://films.${R2}`, `https://${R2}`],
    [`https://${R2}/films`, `https://${R2}`],
    [`https://${R2}/films/`, `https://${R2}`],
    ['https://films.example.com', 'https://films.example.com'], // the bucket may be named like the host
    ['https://store.example/s3/v1', 'https://store.example/s3/v1'],
  ])('%s leads to the store %s', (given, endpoint) => {
    expect(options({ BUCKET_NAME: 'films', BUCKET_ENDPOINT_URL: given, ...KEYS })).toMatchObject({
      bucket: 'films',
      endpoint,
    });
  });

  test('a URL in RunPod’s form names the bucket', () => {
    expect(options({ BUCKET_ENDPOINT_URL: 'https://my.films.s3.eu-central-1.amazonaws.com', ...KEYS })).toMatchObject({
      bucket: 'my.films',
      endpoint: 'https://s3.eu-central-1.amazonaws.com',
      region: 'eu-central-1',
    });
  });

  const named = { BUCKET_NAME: 'films', ...KEYS };
  test.each<[NodeJS.ProcessEnv, string]>([
    [{ BUCKET_NAME: 'films' }, 'BUCKET_ACCESS_KEY_ID is needed for the bucket films'],
    [
      { BUCKET_NAME: 'films', BUCKET_ACCESS_KEY_ID: 'id', ...AWS },
      'BUCKET_SECRET_ACCESS_KEY is needed for the bucket films',
    ],
    [
      { BUCKET_NAME: 'films', BUCKET_SECRET_ACCESS_KEY: 's', ...AWS },
      'BUCKET_ACCESS_KEY_ID is needed for the bucket films',
    ],
    [
      KEYS,
      'BUCKET_NAME is needed with BUCKET_ACCESS_KEY_ID; to use a folder in DATA_DIR instead, set no BUCKET_ variable',
    ],
    [
      { BUCKET_REGION: 'auto' },
      'BUCKET_NAME is needed with BUCKET_REGION; to use a folder in DATA_DIR instead, set no BUCKET_ variable',
    ],
    [
      { BUCKET_ENDPOINT_URL: 'https://store.example' },
      'BUCKET_NAME is needed with BUCKET_ENDPOINT_URL; to use a folder in DATA_DIR instead, set no BUCKET_ variable',
    ],
    ...['Films', 'a', '-films', 'films-', 'my_films', 'my..films', '10.0.0.1', 'films/x', 'f'.repeat(64)].map(
      (name): [NodeJS.ProcessEnv, string] => [
        { ...named, BUCKET_NAME: name },
        'BUCKET_NAME must be a bucket’s name: 3 to 63 lower-case letters, digits, hyphens and dots',
      ],
    ),
    ...[
      'store.example',
      'ftp://store.example',
      'https://',
      'https://k:geheim@store.example',
      'https://store.example?k=geheim',
    ].map((address): [NodeJS.ProcessEnv, string] => [
      { ...named, BUCKET_ENDPOINT_URL: address },
      'BUCKET_ENDPOINT_URL must be an http or https URL, without keys or a query',
    ]),
    [{ ...named, AWS_ENDPOINT_URL: 'x' }, 'AWS_ENDPOINT_URL must be an http or https URL, without keys or a query'],
    [{ ...named, BUCKET_REGION: 'eu central' }, 'BUCKET_REGION must be a region, such as eu-central-1'],
    [{ ...named, AWS_DEFAULT_REGION: 'eu_1' }, 'AWS_DEFAULT_REGION must be a region, such as eu-central-1'],
    [
      { ...named, BUCKET_ENDPOINT_URL: 'https://others.s3.eu-central-1.amazonaws.com' },
      'BUCKET_ENDPOINT_URL names the bucket others, but BUCKET_NAME is films',
    ],
  ])('%j: %s', (environment, message) => {
    expect(() => options(environment)).toThrow(new Error(message));
  });
});
