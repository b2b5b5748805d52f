/**
 * A real S3 server for tests, versitygw, on loopback with a folder of its own. It knows no lifecycle rules. `.ci/run` builds it; where
 * it is missing, the tests that want it are skipped and say so.
 */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { createServer as createHttpServer, type IncomingMessage, request, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { homedir, tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { CreateBucketCommand } from '@aws-sdk/client-s3';
import { type S3Options, s3Client } from '../../core/bucket/s3.ts';
import { freePort } from '../run/free-port.ts';
import { isProgram } from '../run/programs.ts';

const NAME = 'versitygw';
const PATIENCE = 20_000; // milliseconds, for it to start

/** The program, or undefined where there is none. */
export const s3Server: string | undefined = [
  process.env.S3_SERVER,
  ...(process.env.PATH ?? '').split(delimiter).map((folder) => join(folder, NAME)),
  join(homedir(), 'go', 'bin', NAME),
].find((path) => path && isProgram(path));

/** For the names of tests. */
export const skipped = s3Server ? '' : ' (no versitygw: skipped)';
if (!s3Server) console.warn('no versitygw: what wants a real S3 store is skipped');

export type LocalS3 = Awaited<ReturnType<typeof startS3>>;

/** @throws Error that says what the server said */
export async function startS3() {
  const folder = await mkdtemp(join(tmpdir(), 's3-'));
  const [objects, sidecar] = [join(folder, 'objects'), join(folder, 'sidecar')]; // beside: not every folder knows extended attributes
  for (const part of [objects, sidecar]) await mkdir(part);
  const keys = { accessKeyId: randomBytes(10).toString('hex'), secretAccessKey: randomBytes(20).toString('hex') };
  const port = await freePort();
  const endpoint = `http://127.0.0.1:${port}`;
  const child = spawn(s3Server!, ['--port', `127.0.0.1:${port}`, 'posix', '--sidecar', sidecar, objects], {
    env: { ROOT_ACCESS_KEY: keys.accessKeyId, ROOT_SECRET_KEY: keys.secretAccessKey },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (said += text));
  const exited = once(child, 'exit').catch((error) => (said += error)); // it could not be started at all
  const kill = () => child.kill('SIGKILL');
  process.once('exit', kill);

  const deadline = Date.now() + PATIENCE;
  while (!(await fetch(endpoint).catch(() => undefined))) {
    if (child.exitCode !== null || Date.now() > deadline) {
      kill();
      throw new Error(`${s3Server} did not start: ${said}`);
    }
    await delay(20);
  }

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
      kill();
      process.off('exit', kill);
      await exited;
      await rm(folder, { recursive: true });
    },
  };
}

/** What a store says of an error. */
export const errorBody = (code: string, more = '') =>
  `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message>secret-of-the-body</Message>${more}</Error>`;

/** What a line does to a request: cuts it in the middle, says nothing, loses the answer or half of it, or answers itself. */
export type Fault =
  | 'cut'
  | 'ignore'
  | 'lose'
  | 'halve'
  | { status: number; body: string; headers?: Record<string, string> | undefined };

export type Line = Awaited<ReturnType<typeof startLine>>;

/** A line to the store, over which each request goes unless it meets a fault. */
export async function startLine(to: string) {
  const line = {
    fault: (_: IncomingMessage): Fault | undefined | Promise<Fault | undefined> => undefined,
    /** changes the headers of answers */
    change: (_: IncomingMessage['headers']): unknown => undefined,
    /** every request, `PUT /bucket/key?query` */
    asked: [] as string[],
    /** those whose answers were lost */
    lost: [] as string[],
  };

  async function forward(incoming: IncomingMessage, response: ServerResponse) {
    const asked = `${incoming.method} ${incoming.url}`;
    line.asked.push(asked);
    const fault = await line.fault(incoming);
    if (fault === 'ignore') return;
    if (fault === 'cut') {
      if (incoming.headers['content-length'] && incoming.headers['content-length'] !== '0')
        await once(incoming, 'data');
      return void incoming.socket.destroy();
    }
    if (typeof fault === 'object') {
      incoming.resume();
      return void response
        .writeHead(fault.status, { 'content-type': 'application/xml', ...fault.headers })
        .end(fault.body);
    }
    const { expect: _, ...headers } = incoming.headers; // this line has answered it itself
    const outgoing = request(`${to}${incoming.url}`, { method: incoming.method, headers });
    outgoing.on('error', () => incoming.socket.destroy());
    incoming.pipe(outgoing);
    const [answer] = (await once(outgoing, 'response')) as [IncomingMessage];
    line.change(answer.headers);
    const body = Buffer.concat(await answer.toArray());
    if (fault === 'lose') {
      line.lost.push(asked);
      return void incoming.socket.destroy();
    }
    response.writeHead(answer.statusCode!, answer.headers);
    if (fault !== 'halve') return void response.end(body);
    response.write(body.subarray(0, body.length / 2), () => incoming.socket.destroy());
  }

  const server = createHttpServer((incoming, response) =>
    forward(incoming, response).catch(() => incoming.socket.destroy()),
  );
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return Object.assign(line, {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async close() {
      server.close();
      server.closeAllConnections();
    },
  });
}
