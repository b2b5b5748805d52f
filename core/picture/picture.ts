/** Checks and decodes untrusted pictures, each in a process of its own (decode.mjs). */
import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { buffer, text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { JobError } from '../job.ts';
import { createSlots } from '../slots.ts';
import { MINUTE } from '../time.ts';
import {
  MAX_PICTURE_BYTES,
  MAX_PICTURE_PIXELS,
  MAX_PICTURE_SCANS,
  MAX_PICTURE_SIDE,
  PICTURE_LIMITS_TEXT,
  PICTURE_TYPES_TEXT,
} from './limits.ts';
import { DECODER_ENV, SANDBOXES, type Sandbox } from './sandbox.ts';

/** CPU seconds for a check and for a PNG. The slowest picture of 64 megapixels (AVIF) took 3 and 6 on a busy machine. */
const CPU_SECONDS = { check: 10, png: 30 };
/** A decoder that has not ended by then hangs; a busy machine needs less. */
const TIMEOUT = 10 * MINUTE;

/**
 * These hold even if this process dies first: no core file, CPU seconds (SIGXCPU; a second later SIGKILL), and KiB of memory (1.7 GB was
 * the most seen).
 */
const limits = (cpuSeconds: number) =>
  `ulimit -c 0; ulimit -S -t ${cpuSeconds}; ulimit -H -t ${cpuSeconds + 1}; ulimit -d ${3 * 1024 * 1024}`;
/** If the machine runs out of memory, the kernel kills the decoder first. */
const OOM_FIRST = '{ echo 1000 > /proc/self/oom_score_adj; } 2>/dev/null';
const LIMITS = { maxPixels: MAX_PICTURE_PIXELS, maxSide: MAX_PICTURE_SIDE, maxScans: MAX_PICTURE_SCANS };
const DECODER = fileURLToPath(new URL('decode.mjs', import.meta.url));

// The same as in decode.mjs.
const TOO_LARGE = 2;
const NO_PICTURE = 3;
const TOO_MANY_SCANS = 4;
/** What libvips says of a picture that may be whole, but uses what the decoder lacks, as TIFF’s ZSTD. */
const UNSUPPORTED =
  /: (.{1,200} (?:support is not configured|decoding is not implemented)|Unsupported JPEG .{1,100})$/m;
/** Signals of a crash; any other signal came from outside. */
const CRASHES = ['SIGSEGV', 'SIGABRT', 'SIGBUS', 'SIGILL', 'SIGFPE', 'SIGTRAP', 'SIGSYS'];

/** By number: a shell exits with 128 and the number of the signal that killed its command. */
const SIGNALS = new Map(Object.entries(constants.signals).map(([name, number]) => [number as number, name]));

/** Two decoders at a time: a slow picture does not block all others, and many pictures do not take all memory. */
const takeDecoder = createSlots(2, { all: 500, perOwner: 100 });

/**
 * Decodes the whole picture at low resolution, which finds a broken one.
 * @param owner has one picture decoded at a time
 * @returns the picture's size when upright, in pixels
 * @throws JobError image_rejected: not a picture of an accepted type, truncated, too large, or too slow to decode
 * @throws QueueFullError too many pictures wait, of this owner or of all
 */
export async function checkPicture(
  bytes: Uint8Array,
  signal?: AbortSignal,
  owner?: string,
): Promise<{ width: number; height: number }> {
  return JSON.parse(String(await decode(bytes, false, signal, owner)));
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

const tooManyScans = () =>
  new JobError('image_rejected', `the JPEG has too many scans: at most ${MAX_PICTURE_SCANS} are accepted`);

async function decode(
  bytes: Uint8Array,
  png: boolean,
  signal = new AbortController().signal,
  owner?: string,
): Promise<Buffer> {
  if (bytes.length > MAX_PICTURE_BYTES) throw pictureTooLarge();
  const sandbox = await findSandbox();
  const free = await takeDecoder(signal, owner);
  try {
    return resultOf(await runDecoder(sandbox, bytes, png, signal));
  } finally {
    free();
  }
}

let found: Promise<Sandbox> | undefined;

/** The first of SANDBOXES in which the decoder works on this machine; they are tried once. */
export function findSandbox(): Promise<Sandbox> {
  found ??= tryAll().catch((error) => {
    found = undefined;
    throw error;
  });
  return found;
}

async function tryAll(): Promise<Sandbox> {
  let exit: Exit | undefined;
  for (const sandbox of SANDBOXES) {
    exit = await runDecoder(sandbox, Buffer.alloc(0), false, new AbortController().signal);
    if (exit.status === NO_PICTURE) return sandbox;
  }
  throw new Error(`the picture decoder can’t be started: ${exit?.message}`);
}

interface Exit {
  output: Buffer;
  message: string;
  status: number | null;
  /** such as SIGSEGV */
  killedBy: string | undefined;
}

/** @throws Error the process did not start, or hangs; the signal's reason */
async function runDecoder(sandbox: Sandbox, bytes: Uint8Array, png: boolean, signal: AbortSignal): Promise<Exit> {
  const options = JSON.stringify({ png, ...LIMITS });
  const script = `${OOM_FIRST}; ${limits(png ? CPU_SECONDS.png : CPU_SECONDS.check)}; exec "$0" "$@"`;
  const timeout = AbortSignal.timeout(TIMEOUT);
  const child = spawn('/bin/sh', ['-c', script, ...sandbox.command(DECODER, [options])], {
    env: DECODER_ENV,
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
  const [output, message, [status, killedBy]] = await Promise.all([buffer(child.stdout), text(child.stderr), closed]);
  signal.throwIfAborted();
  if (timeout.aborted) throw new Error(`the decoder has not ended after ${TIMEOUT / MINUTE} minutes`);
  if (failure) throw failure;
  return { output, message, status, killedBy: killedBy ?? SIGNALS.get(status! - 128) };
}

/** @throws JobError image_rejected; Error the decoder failed for another reason than its picture */
function resultOf({ output, message, status, killedBy }: Exit): Buffer {
  if (status === 0) return output;
  if (status === TOO_LARGE) throw pictureTooLarge();
  if (status === TOO_MANY_SCANS) throw tooManyScans();
  const cause = new Error(`decoder: ${killedBy ?? status} ${message.slice(-1000)}`.trim());
  if (status === NO_PICTURE) {
    const unsupported = message.match(UNSUPPORTED)?.[1];
    const reason = unsupported
      ? `the picture can’t be decoded (${unsupported}): save it as JPEG or PNG`
      : `not a complete picture of type ${PICTURE_TYPES_TEXT}`;
    throw new JobError('image_rejected', reason, { cause });
  }
  if (killedBy === 'SIGXCPU') throw new JobError('image_rejected', 'the picture takes too long to decode', { cause });
  if (killedBy && CRASHES.includes(killedBy)) {
    throw new JobError('image_rejected', 'the picture can’t be decoded', { cause });
  }
  throw cause;
}
