/**
 * `npm run soak -- pictures`: valid pictures with some bytes changed, through fetch, decoder and fit. It fails if a decoder crashes, if the
 * outcome is neither a picture nor a refusal, if memory grows, or if files are left. The same seed gives the same pictures; those with a
 * violation are kept.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { crc32 } from 'node:zlib';
import sharp from 'sharp';
import { JobError } from '../../core/job.ts';
import { toPng } from '../../core/picture/picture.ts';
import { MINUTE, SECOND } from '../../core/time.ts';
import { fetchPicture } from '../../handler/still/fetch-picture.ts';
import { fitStill } from '../../handler/still/fit.ts';
import { serveOnLoopback } from '../../infra/simulators/loopback.ts';
import { readFlags } from '../support/flags.ts';
import { sample, validPictures } from '../support/malicious-pictures.ts';
import { chooser, seededRandom } from './prng.ts';

const MB = 1e6;
const TIMEOUT = 30 * SECOND; // the service's own for a picture
/** How much more a process may hold in the last tenth than in the second: allocators never settle completely. */
const MAX_GROWTH = 150 * MB;
const LIMITS = { maxPixels: 64_000_000, maxSide: 65_535, maxScans: 100 };
/** One picture in this many also goes through the service's own decoder process. */
const OWN_PROCESS = 50;

export interface FuzzOptions {
  seed: number;
  /** called before each picture with the number of pictures so far */
  isDone: (count: number) => boolean;
  /** where pictures with a violation are kept */
  folder: string;
  onProgress?: (report: FuzzReport) => void;
  /** the script that decodes */
  decoder?: string;
}

export interface FuzzReport {
  count: number;
  accepted: number;
  refused: number;
  /** what should not have happened, each with the picture's number */
  violations: string[];
  /** the longest decoding, milliseconds */
  slowest: number;
  /** bytes that the decoder and this process hold, after each picture */
  memory: { decoder: number; self: number }[];
}

/** What is changed: every type, and what pictures carry besides pixels. */
async function sourcePictures(): Promise<Buffer[]> {
  const two = await sample(64, 128).raw().toBuffer();
  const pages = () => sharp(two, { raw: { width: 64, height: 128, channels: 3, pageHeight: 64 } });
  const exif = { IFD0: { Artist: 'somebody', Orientation: '6' }, IFD3: { GPSLatitude: '51/1 30/1 0/1' } };
  return [
    ...Object.values(await validPictures()),
    await sample().withIccProfile('p3').withExif(exif).jpeg({ chromaSubsampling: '4:4:4' }).toBuffer(),
    await sample().toColourspace('cmyk').jpeg().toBuffer(),
    await sample().toColourspace('rgb16').withIccProfile('p3').png().toBuffer(),
    await sample().greyscale().toColourspace('b-w').png({ progressive: true }).toBuffer(),
    await sample().withXmp('<x:xmpmeta xmlns:x="adobe:ns:meta/"/>').png({ palette: true, colours: 16 }).toBuffer(),
    await pages()
      .gif({ delay: [50, 50] })
      .toBuffer(),
    await pages()
      .webp({ delay: [50, 50], effort: 0 })
      .toBuffer(),
    await pages().tiff({ compression: 'deflate', predictor: 'horizontal' }).toBuffer(),
    await sample().ensureAlpha(0.3).avif({ effort: 0, chromaSubsampling: '4:2:0' }).withExif(exif).toBuffer(),
    await sample().tiff({ compression: 'packbits', bitdepth: 1 }).toBuffer(),
    await sample().tiff({ compression: 'lzw', tile: true, tileWidth: 16, tileHeight: 16, pyramid: true }).toBuffer(),
  ];
}

const INTERESTING = [0, 1, 2, 7, 8, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0xffffffff];

/** One of the pictures with one to three changes, all of them chosen by `random`. */
export function mutated(pictures: Buffer[], random: () => number): Buffer {
  const choose = chooser(random);
  const below = (n: number) => Math.floor(random() * n);
  /** An offset: half of the time among the first bytes, where headers are. */
  const place = (bytes: Buffer) => below(random() < 0.5 ? Math.min(bytes.length, 300) : bytes.length);
  const part = (bytes: Buffer) => {
    const start = place(bytes);
    return bytes.subarray(start, start + 1 + below(random() < 0.5 ? 16 : bytes.length));
  };
  const overwrite = (bytes: Buffer, written: Uint8Array) => {
    bytes.set(written.subarray(0, bytes.length), Math.min(place(bytes), Math.max(0, bytes.length - written.length)));
    return bytes;
  };
  const insert = (bytes: Buffer, inserted: Buffer) => {
    const at = place(bytes);
    return Buffer.concat([bytes.subarray(0, at), inserted, bytes.subarray(at)]);
  };
  const numberOf = (size: 2 | 4) => {
    const bytes = Buffer.alloc(4);
    const value = choose(INTERESTING.slice(0, size === 2 ? 12 : undefined));
    if (random() < 0.5) bytes.writeUInt32BE((value << (size === 2 ? 16 : 0)) >>> 0);
    else bytes.writeUInt32LE(value);
    return bytes.subarray(0, size);
  };

  const changes: ((bytes: Buffer) => Buffer)[] = [
    (bytes) => {
      for (let i = 1 + below(16); i > 0; i--) bytes[place(bytes)]! ^= 1 << below(8);
      return bytes;
    },
    (bytes) => {
      for (let i = 1 + below(4); i > 0; i--) bytes[place(bytes)] = INTERESTING[below(8)]!;
      return bytes;
    },
    (bytes) => overwrite(bytes, numberOf(4)),
    (bytes) => overwrite(bytes, numberOf(2)),
    (bytes) => overwrite(bytes, part(choose(pictures))),
    (bytes) => insert(bytes, part(bytes)),
    (bytes) => insert(bytes, part(choose(pictures))),
    (bytes) => bytes.subarray(0, below(bytes.length + 1)),
    (bytes) => {
      const [at, length] = [place(bytes), part(bytes).length];
      return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + length)]);
    },
    (bytes) => Buffer.concat([bytes.subarray(0, place(bytes)), choose(pictures)]),
  ];
  let bytes: Buffer = Buffer.from(choose(pictures));
  for (let i = 1 + below(3); i > 0 && bytes.length > 0; i--) bytes = Buffer.from(choose(changes)(bytes));
  if (random() < 0.8) correctChecksums(bytes);
  return bytes;
}

/** Gives each chunk of a PNG its right checksum, so that decoders read more than the checksum. */
function correctChecksums(png: Buffer): void {
  if (png.length < 8 || png.readUInt32BE(0) !== 0x89504e47) return;
  for (let at = 8; at + 12 <= png.length; ) {
    const end = at + 8 + png.readUInt32BE(at);
    if (end + 4 > png.length) return;
    png.writeUInt32BE(crc32(png.subarray(at + 4, end)), end);
    at = end + 4;
  }
}

/** What a decoder answers, or how it ended. */
type Answer = { result?: Uint8Array; refused?: string; rss: number } | { ended: string };

/** A decoder process that is started again after it has ended. Nothing may be left in its temporary folder. */
function createDecoder(script: string, temporary: string) {
  let child: ChildProcess | undefined;
  return {
    async ask(bytes: Buffer, png: boolean): Promise<Answer> {
      child ??= fork(script, { serialization: 'advanced', execArgv: [], env: { TMPDIR: temporary } });
      const current = child;
      const timer = setTimeout(() => current.kill('SIGKILL'), TIMEOUT);
      const answer = await new Promise<Answer>((resolve) => {
        current.once('message', (message) => resolve(message as Answer));
        current.once('exit', (status, signal) =>
          resolve({ ended: signal === 'SIGKILL' ? 'took too long' : `${signal ?? status}` }),
        );
        current.send({ bytes, png, ...LIMITS });
      });
      clearTimeout(timer);
      current.removeAllListeners('message').removeAllListeners('exit');
      if ('ended' in answer) child = undefined;
      return answer;
    },
    async stop() {
      if (!child) return;
      const ended = once(child, 'exit');
      child.kill('SIGKILL');
      await ended;
    },
  };
}

export async function fuzzPictures(options: FuzzOptions): Promise<FuzzReport> {
  const { seed, isDone, folder, onProgress } = options;
  const pictures = await sourcePictures();
  const report: FuzzReport = { count: 0, accepted: 0, refused: 0, violations: [], slowest: 0, memory: [] };
  let current: Buffer = Buffer.alloc(0);
  const server = await serveOnLoopback((_, response) => void response.end(current));
  const { signal } = new AbortController();
  const temporary = await mkdtemp(join(tmpdir(), 'soak-'));
  const script = options.decoder ?? fileURLToPath(new URL('decoder.mjs', import.meta.url));
  const decoder = createDecoder(script, temporary);

  async function addViolation(what: string): Promise<void> {
    await mkdir(folder, { recursive: true });
    const path = join(folder, `seed-${seed}-${report.count}.bin`);
    await writeFile(path, current);
    report.violations.push(`${what}: picture ${report.count} of seed ${seed}, ${path}`);
  }

  async function ask(bytes: Buffer, png: boolean): Promise<Answer> {
    const began = performance.now();
    const answer = await decoder.ask(bytes, png);
    report.slowest = Math.max(report.slowest, performance.now() - began);
    if ('ended' in answer) await addViolation(`a decoder ended: ${answer.ended}`);
    return answer;
  }

  /** @returns bytes that the decoder holds */
  async function tryOne(random: () => number): Promise<number> {
    current = mutated(pictures, random);
    const bytes = await fetchPicture(`${server.url}/`, { allowPrivate: true, signal });
    await ask(bytes, false);
    const answer = await ask(bytes, true);
    if ('ended' in answer) return 0;
    const { result, refused, rss } = answer;
    if (refused !== undefined) report.refused++;
    else {
      report.accepted++;
      const side = () => 64 * (1 + Math.floor(random() * 6));
      const frame = { W: side(), H: side(), fit: chooser(random)(['cover', 'contain', 'stretch'] as const) };
      const { data, width, height } = await fitStill(result!, frame);
      if (data.length !== 3 * width * height)
        await addViolation(`fit gave ${data.length} bytes for ${width}×${height}`);
    }
    if (report.count % OWN_PROCESS === 0) {
      const own = await toPng(bytes, signal).catch((error) => {
        if (error instanceof JobError && error.code === 'image_rejected') return undefined;
        throw error;
      });
      if ((own === undefined) !== (refused !== undefined)) await addViolation('the service decides otherwise');
      else if (own && !own.equals(result!)) await addViolation('the service makes another picture of it');
    }
    return rss;
  }

  try {
    for (; !isDone(report.count); report.count++) {
      try {
        const rss = await tryOne(seededRandom(Math.imul(seed, 0x9e3779b1) + report.count));
        report.memory.push({ decoder: rss, self: process.memoryUsage.rss() });
      } catch (error) {
        await addViolation(`neither a picture nor a refusal: ${error}`);
      }
      if (report.count % 500 === 499) onProgress?.(report);
    }
    for (const name of ['decoder', 'self'] as const) {
      const grown = growth(report.memory.map((memory) => memory[name]));
      if (grown > MAX_GROWTH) report.violations.push(`${name} has grown by ${Math.round(grown / MB)} MB`);
    }
    const left = await readdir(temporary);
    if (left.length > 0) report.violations.push(`decoders left ${left.join(', ')}`);
    return report;
  } finally {
    await decoder.stop();
    await server.close();
    await rm(temporary, { recursive: true });
  }
}

/** How much more the last tenth holds than the second tenth did, by medians: single pictures may be large. 0 for fewer than 100. */
export function growth(samples: number[]): number {
  const tenth = Math.floor(samples.length / 10);
  if (tenth < 10) return 0;
  const median = (part: number[]) => part.toSorted((a, b) => a - b)[Math.floor(part.length / 2)]!;
  return median(samples.slice(-tenth)) - median(samples.slice(tenth, 2 * tenth));
}

function printProgress({ count, accepted, refused, violations, slowest, memory }: FuzzReport): void {
  const { decoder, self } = memory.at(-1) ?? { decoder: 0, self: 0 };
  const mb = (bytes: number) => `${Math.round(bytes / MB)} MB`;
  console.log(
    `${count} pictures: ${accepted} accepted, ${refused} refused, ${violations.length} violations; slowest ${Math.round(slowest)} ms; ` +
      `decoder ${mb(decoder)}, this process ${mb(self)}`,
  );
}

/** Runs for as long as the flags say. @returns whether there was no violation */
export async function soak(args: string[]): Promise<boolean> {
  const { minutes, seed } = readFlags(args, { minutes: 10, seed: Date.now() % 1e6 });
  const end = Date.now() + minutes * MINUTE;
  console.log(`${minutes} minutes of changed pictures, seed ${seed}`);
  const folder = join(tmpdir(), 'soak-pictures');
  const report = await fuzzPictures({ seed, isDone: () => Date.now() > end, folder, onProgress: printProgress });
  printProgress(report);
  for (const violation of report.violations) console.log(`VIOLATION ${violation}`);
  return report.violations.length === 0;
}
