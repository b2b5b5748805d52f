/**
 * A real S3 server for tests: versitygw on loopback, with a temporary folder. It knows no lifecycle rules. `.ci/run` builds it; without
 * it the tests that need it are skipped.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { homedir, tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { CreateBucketCommand } from '@aws-sdk/client-s3';
import { type S3Options, s3Client } from '../../core/bucket/s3.ts';
import { freePort } from '../run/free-port.ts';
import { isProgram } from '../run/programs.ts';
import { startProgram } from './start-program.ts';

const NAME = 'versitygw';

/** The program's path; undefined where it is not installed. */
export const s3Server: string | undefined = [
  process.env.S3_SERVER,
  ...(process.env.PATH ?? '').split(delimiter).map((folder) => join(folder, NAME)),
  join(homedir(), 'go', 'bin', NAME),
].find((path) => path && isProgram(path));

/** A suffix for the titles of tests. */
export const skipped = s3Server ? '' : ' (no versitygw: skipped)';
if (!s3Server) console.warn('no versitygw: tests that need a real S3 store are skipped');

export type LocalS3 = Awaited<ReturnType<typeof startS3>>;

/** @throws Error with the server's output, if it does not start */
export async function startS3() {
  const folder = await mkdtemp(join(tmpdir(), 's3-'));
  const objects = join(folder, 'objects');
  const sidecar = join(folder, 'sidecar'); // for metadata: some file systems have no extended attributes
  for (const part of [objects, sidecar]) await mkdir(part);
  const keys = { accessKeyId: randomBytes(10).toString('hex'), secretAccessKey: randomBytes(20).toString('hex') };
  const port = await freePort();
  const endpoint = `http://127.0.0.1:${port}`;
  const server = await startProgram(
    s3Server!,
    ['--port', `127.0.0.1:${port}`, 'posix', '--sidecar', sidecar, objects],
    {
      env: { ROOT_ACCESS_KEY: keys.accessKeyId, ROOT_SECRET_KEY: keys.secretAccessKey },
      killSignal: 'SIGKILL',
      isReady: () => fetch(endpoint),
    },
  );
  let count = 0;
  return {
    endpoint,
    /** Makes an empty bucket. */
    async bucket(): Promise<S3Options & { endpoint: string }> {
      const options = { bucket: `bucket-${++count}`, endpoint, region: 'us-east-1', ...keys };
      await s3Client(options).send(new CreateBucketCommand({ Bucket: options.bucket }));
      return options;
    },
    async stop() {
      await server.stop();
      await rm(folder, { recursive: true });
    },
  };
}
