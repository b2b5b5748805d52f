/** Checks and decodes untrusted pictures, each in a process of its own (decode.mjs). */
import { spawn } from 'node:child_process';
import { tmpdir } from 'node:os';
import { buffer, text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { JobError } from '../job.ts';
import { createMutex } from '../mutex.ts';
import { SECOND } from '../time.ts';
import {
  MAX_PICTURE_BYTES,
  MAX_PICTURE_PIXELS,
  MAX_PICTURE_SIDE,
  PICTURE_LIMITS_TEXT,
  PICTURE_TYPES_TEXT,
} from './limits.ts';

/** For one picture; the largest takes a few seconds. */
const TIMEOUT = 30 * SECOND;

/** These hold even if this process dies first: no core file, a limit in CPU seconds, and one in KiB of memory (1.7 GB was the most seen). */
const LIMITS = `ulimit -c 0; ulimit -t ${(2 * TIMEOUT) / SECOND}; ulimit -d ${3 * 1024 * 1024}`;
/** If the machine runs out of memory, the kernel kills the decoder first. */
const OOM_FIRST = '{ echo 1000 > /proc/self/oom_score_adj; } 2>/dev/null';
const DECODER = fileURLToPath(new URL('decode.mjs', import.meta.url));

// The same as in decode.mjs.
const TOO_LARGE = 2;
const NO_PICTURE = 3;
/** Signals of a crash; any other signal came from outside. */
const CRASHES = ['SIGSEGV', 'SIGABRT', 'SIGBUS', 'SIGILL', 'SIGFPE', 'SIGTRAP', 'SIGSYS', 'SIGXCPU'];

/** Two decoders at a time: a slow picture does not block all others, and many pictures do not take all memory. */
const mutexes = [createMutex(), createMutex()];
let count = 0;

/**
 * Decodes the whole picture at low resolution, which finds a broken one.
 * @throws JobError image_rejected: not a picture of an accepted type, truncated, or too large
 */
export async function checkPicture(bytes: Uint8Array, signal?: AbortSignal): Promise<void> {
  await decode(bytes, false, signal);
}

/**
 * The picture as a PNG at its full size: upright (EXIF), sRGB, alpha over white, without metadata.
 * @throws JobError image_rejected
 */
export async function toPng(bytes: Uint8Array, signal?: AbortSignal): Promise<Buffer> {
  return decode(bytes, true, signal);
}

export const pictureTooLarge = () =>
  new JobError('image_rejected', `the picture is too large: ${PICTURE_LIMITS_TEXT} are accepted`);

async function decode(bytes: Uint8Array, png: boolean, signal = new AbortController().signal): Promise<Buffer> {
  if (bytes.length > MAX_PICTURE_BYTES) throw pictureTooLarge();
  const release = await mutexes[count++ % mutexes.length]!(signal);
  try {
    return await runDecoder(bytes, png, signal);
  } finally {
    release();
  }
}

async function runDecoder(bytes: Uint8Array, png: boolean, signal: AbortSignal): Promise<Buffer> {
  const options = JSON.stringify({ png, maxPixels: MAX_PICTURE_PIXELS, maxSide: MAX_PICTURE_SIDE });
  const script = `${OOM_FIRST}; ${LIMITS}; exec "$0" "$@"`;
  const timeout = AbortSignal.timeout(TIMEOUT);
  const child = spawn('/bin/sh', ['-c', script, process.execPath, DECODER, options], {
    env: { TMPDIR: tmpdir() }, // no secrets
    signal: AbortSignal.any([signal, timeout]),
    killSignal: 'SIGKILL',
  });
  let failure: unknown;
  child.on('error', (error) => {
    failure = error; // the process did not start, or was aborted
  });
  const closed = new Promise<[status: number | null, killedBy: string | null]>((resolve) =>
    child.on('close', (...how) => resolve(how)),
  );
  child.stdin.on('error', () => {}).end(bytes); // the process may exit before it has read all; its status says why
  const [result, message, [status, killedBy]] = await Promise.all([buffer(child.stdout), text(child.stderr), closed]);
  signal.throwIfAborted();
  if (timeout.aborted) throw new JobError('image_rejected', 'the picture takes too long to decode');
  if (failure) throw failure;
  if (status === 0) return result;
  if (status === TOO_LARGE) throw pictureTooLarge();
  const cause = new Error(`decoder: ${killedBy ?? status} ${message.slice(-1000)}`.trim());
  if (status === NO_PICTURE) {
    const message = `not a whole picture of type ${PICTURE_TYPES_TEXT}`;
    throw new JobError('image_rejected', message, { cause });
  }
  if (killedBy && CRASHES.includes(killedBy)) {
    throw new JobError('image_rejected', 'the picture can’t be decoded', { cause });
  }
  throw cause;
}
