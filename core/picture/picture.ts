/** Pictures from strangers: what is one, and how large it may be. They are decoded in processes of their own (decode.mjs). */
import { spawn } from 'node:child_process';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { deadline } from '../deadline.ts';
import { JobError } from '../job.ts';
import { createMutex } from '../mutex.ts';
import { MAX_PICTURE_BYTES, MAX_PICTURE_PIXELS, MAX_PICTURE_SIDE, PICTURE_TYPES_TEXT } from './limits.ts';

const TIMEOUT = 30_000; // for one decoding; the largest picture takes a few seconds

/** Also where this process dies before its decoder: no core file, seconds of computing, and KiB of memory (the most seen is 1.7 GB). */
const LIMITS = `ulimit -c 0; ulimit -t ${(2 * TIMEOUT) / 1000}; ulimit -d ${3 * 1024 * 1024}`;
/** Where memory runs out all the same, the kernel shall take the decoder before anybody else. */
const FIRST_TO_GO = '{ echo 1000 > /proc/self/oom_score_adj; } 2>/dev/null';
const DECODER = fileURLToPath(new URL('decode.mjs', import.meta.url));

// As decode.mjs has them.
const TOO_LARGE = 2;
const NO_PICTURE = 3;
/** How a process ends by its own fault; any other signal came from outside. */
const CRASHES = ['SIGSEGV', 'SIGABRT', 'SIGBUS', 'SIGILL', 'SIGFPE', 'SIGTRAP', 'SIGSYS', 'SIGXCPU'];

/** Two at a time, so that one that takes long does not hold up everybody, and a crowd does not take all memory. */
const turns = [createMutex(), createMutex()];
let asked = 0;

/**
 * Decodes the whole picture once, at low resolution, so that a broken one is found before anything is done with it.
 * @throws JobError image_rejected: no picture of a known type, truncated, or too large
 */
export async function checkPicture(bytes: Uint8Array, signal?: AbortSignal): Promise<void> {
  await decode(bytes, false, signal);
}

/**
 * The picture as a PNG at its full size: upright (EXIF), sRGB, alpha over white, nothing but pixels.
 * @throws JobError image_rejected
 */
export async function toPng(bytes: Uint8Array, signal?: AbortSignal): Promise<Buffer> {
  return decode(bytes, true, signal);
}

export const pictureTooLarge = () =>
  new JobError(
    'image_rejected',
    `the picture is larger than ${MAX_PICTURE_BYTES / 1e6} MB, ${MAX_PICTURE_PIXELS / 1e6} megapixels or ${MAX_PICTURE_SIDE} pixels a side`,
  );

async function decode(bytes: Uint8Array, png: boolean, signal = new AbortController().signal): Promise<Buffer> {
  if (bytes.length > MAX_PICTURE_BYTES) throw pictureTooLarge();
  const leave = await turns[asked++ % turns.length]!(signal);
  try {
    return await runDecoder(bytes, png, signal);
  } finally {
    leave();
  }
}

async function runDecoder(bytes: Uint8Array, png: boolean, signal: AbortSignal): Promise<Buffer> {
  const options = JSON.stringify({ png, maxPixels: MAX_PICTURE_PIXELS, maxSide: MAX_PICTURE_SIDE });
  const script = `${FIRST_TO_GO}; ${LIMITS}; exec "$0" "$@"`;
  const limited = deadline(signal, TIMEOUT);
  try {
    const child = spawn('/bin/sh', ['-c', script, process.execPath, DECODER, options], {
      env: { TMPDIR: tmpdir() }, // no secrets
      signal: limited.signal,
      killSignal: 'SIGKILL',
    });
    let failure: unknown;
    child.on('error', (error) => {
      failure = error; // it could not be started, or was killed by the signal
    });
    const closed = new Promise<[status: number | null, killedBy: string | null]>((resolve) =>
      child.on('close', (...how) => resolve(how)),
    );
    child.stdin.on('error', () => {}).end(bytes); // it may end before it has read all: its status tells why
    const [result, complaint, [status, killedBy]] = await Promise.all([all(child.stdout), all(child.stderr), closed]);
    signal.throwIfAborted();
    if (limited.passed()) throw new JobError('image_rejected', 'the picture takes too long to decode');
    if (failure) throw failure;
    if (status === 0) return result;
    if (status === TOO_LARGE) throw pictureTooLarge();
    const cause = new Error(`decoder: ${killedBy ?? status} ${complaint.subarray(-1000)}`.trim());
    if (status === NO_PICTURE) {
      const message = `not a whole picture of type ${PICTURE_TYPES_TEXT}`;
      throw new JobError('image_rejected', message, { cause });
    }
    if (killedBy && CRASHES.includes(killedBy)) {
      throw new JobError('image_rejected', 'the picture can’t be decoded', { cause });
    }
    throw cause;
  } finally {
    limited.clear();
  }
}

async function all(stream: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}
