/**
 * `npm run soak -- pictures`: pictures that were whole until some bytes were changed, through fetch, decoder and fit. It fails if a
 * decoder crashes, if anything but a picture or a refusal comes of one, if memory grows, or if files or sockets are left.
 * The same seed gives the same pictures; what was found is kept, with its number.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { crc32 } from 'node:zlib';
import sharp from 'sharp';
import { JobError } from '../../core/job.ts';
import { toPng } from '../../core/picture/picture.ts';
import { MINUTE } from '../../core/time.ts';
import { fetchPicture } from '../../handler/still/fetch-picture.ts';
import { fitStill } from '../../handler/still/fit.ts';
import { sample, validPictures } from '../support/malicious-pictures.ts';
import { numbers } from './prng.ts';

const MB = 1e6;
const SLOW = 30_000; // the service's own limit for a picture
/** How much more a process may hold in the last tenth than in the second: allocators are never quite still. */
const MAX_GROWTH = 150 * MB;
const LIMITS = { maxPixels: 64_000_000, maxSide: 65_535 };

export interface FuzzOptions {
  seed: number;
  /** asked after each picture with their count so far */
  isDone: (count: number) => boolean;
  /** where pictures are kept that something was found with */
  folder: string;
  /** of how many pictures one also goes through the service's own decoder process */
  ownProcess: number;
  /** told now and then how far it is */
  onProgress?: (report: FuzzReport) => void;
  /** the script that decodes */
  decoder?: string;
}

export interface FuzzReport {
  count: number;
  taken: number;
  refused: number;
  /** what should not have happened, each with the picture's number */
  found: string[];
  /** the longest decoding, milliseconds */
  slowest: number;
  /** bytes that the decoder and this process hold, after each picture */
  memory: { decoder: number; self: number }[];
}

/** What is changed: every type, and what pictures carry besides pixels. */
async function wholePictures(): Promise<Buffer[]> {
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

/** One of them with some bytes changed; `random` decides all. */
export function mutated(pictures: Buffer[], random: () => number): Buffer {
  const below = (n: number) => Math.floor(random() * n);
  const any = () => pictures[below(pictures.length)]!;
  /** Where things are: half of the time among the first bytes, where headers lie. */
  const place = (bytes: Buffer) => below(random() < 0.5 ? Math.min(bytes.length, 300) : bytes.length);
  const part = (bytes: Buffer) => {
    const start = place(bytes);
    return bytes.subarray(start, start + 1 + below(random() < 0.5 ? 16 : bytes.length));
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
    (bytes) => {
      if (bytes.length < 4) return bytes;
      const at = Math.min(place(bytes), bytes.length - 4);
      const value = INTERESTING[below(INTERESTING.length)]!;
      if (random() < 0.5) bytes.writeUInt32BE(value, at);
      else bytes.writeUInt32LE(value, at);
      return bytes;
    },
    (bytes) => {
      if (bytes.length < 2) return bytes;
      const at = Math.min(place(bytes), bytes.length - 2);
      const value = INTERESTING[below(12)]!;
      if (random() < 0.5) bytes.writeUInt16BE(value, at);
      else bytes.writeUInt16LE(value, at);
      return bytes;
    },
    (bytes) => bytes.subarray(0, below(bytes.length + 1)),
    (bytes) => {
      const [at, length] = [place(bytes), part(bytes).length];
      return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + length)]);
    },
    (bytes) => {
      const at = place(bytes);
      return Buffer.concat([bytes.subarray(0, at), part(bytes), bytes.subarray(at)]);
    },
    (bytes) => {
      const at = place(bytes);
      return Buffer.concat([bytes.subarray(0, at), part(any()), bytes.subarray(at)]);
    },
    (bytes) => {
      const piece = part(any());
      piece.copy(bytes, place(bytes));
      return bytes;
    },
    (bytes) => Buffer.concat([bytes.subarray(0, place(bytes)), any()]),
  ];
  let bytes: Buffer = Buffer.from(any());
  for (let i = 1 + below(3); i > 0 && bytes.length > 0; i--) {
    bytes = Buffer.from(changes[below(changes.length)]!(bytes));
  }
  if (random() < 0.8) mendChecksums(bytes);
  return bytes;
}

/** Gives each chunk of a PNG its right checksum, so that more than the checksum is tried. */
function mendChecksums(png: Buffer): void {
  if (png.length < 8 || png.readUInt32BE(0) !== 0x89504e47) return;
  for (let at = 8; at + 12 <= png.length; ) {
    const end = at + 8 + png.readUInt32BE(at);
    if (end + 4 > png.length) return;
    png.writeUInt32BE(crc32(png.subarray(at + 4, end)), end);
    at = end + 4;
  }
}

type Answer = { result?: Uint8Array; refused?: string; rss: number };

export async function fuzzPictures(options: FuzzOptions): Promise<FuzzReport> {
  const { seed, isDone, folder, ownProcess, onProgress } = options;
  const script = options.decoder ?? fileURLToPath(new URL('decoder.mjs', import.meta.url));
  const pictures = await wholePictures();
  const report: FuzzReport = { count: 0, taken: 0, refused: 0, found: [], slowest: 0, memory: [] };

  let current: Buffer = Buffer.alloc(0);
  const server = createServer((_, response) => response.end(current));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  const { signal } = new AbortController();

  const temporary = await mkdtemp(join(tmpdir(), 'soak-')); // of decoders; nothing may be left in it
  let decoder: ChildProcess | undefined;
  const start = () => fork(script, { serialization: 'advanced', execArgv: [], env: { TMPDIR: temporary } });

  /** @returns how the decoder ended, if it did */
  async function ask(bytes: Buffer, png: boolean): Promise<Answer | string> {
    decoder ??= start();
    const child = decoder;
    const began = performance.now();
    const answer = await new Promise<Answer | string>((resolve) => {
      const timer = setTimeout(() => child.kill('SIGKILL'), SLOW);
      const end = (outcome: Answer | string) => {
        clearTimeout(timer);
        child.removeAllListeners();
        resolve(outcome);
      };
      child.once('message', (message) => end(message as Answer));
      child.once('exit', (status, killedBy) => end(killedBy === 'SIGKILL' ? 'took too long' : `${killedBy ?? status}`));
      child.send({ bytes, png, ...LIMITS });
    });
    report.slowest = Math.max(report.slowest, performance.now() - began);
    if (typeof answer === 'string') decoder = undefined;
    return answer;
  }

  async function find(what: string): Promise<void> {
    await mkdir(folder, { recursive: true });
    const path = join(folder, `seed-${seed}-${report.count}.bin`);
    await writeFile(path, current);
    report.found.push(`${what}: picture ${report.count} of seed ${seed}, ${path}`);
  }

  async function one(random: () => number): Promise<number> {
    current = mutated(pictures, random);
    const bytes = await fetchPicture(url, { allowPrivate: true, signal });
    const looked = await ask(bytes, false);
    const answer = await ask(bytes, true);
    for (const ended of [looked, answer]) {
      if (typeof ended === 'string') await find(`a decoder ended: ${ended}`);
    }
    if (typeof answer === 'string') return 0;
    const { result, refused, rss } = answer;
    if (refused !== undefined) report.refused++;
    else {
      report.taken++;
      const side = () => 64 * (1 + Math.floor(random() * 6));
      const fit = (['cover', 'contain', 'stretch'] as const)[Math.floor(random() * 3)]!;
      const frame = { W: side(), H: side(), fit };
      const { data, width, height } = await fitStill(result!, frame, 1 + random() / 2);
      if (data.length !== 3 * width * height) await find(`fit gave ${data.length} bytes for ${width}×${height}`);
    }
    if (report.count % ownProcess === 0) {
      const own = await toPng(bytes, signal).catch((error) => {
        if (error instanceof JobError && error.code === 'image_rejected') return undefined;
        throw error;
      });
      if ((own === undefined) !== (refused !== undefined)) await find('its own process decides otherwise');
      else if (own && Buffer.compare(own, result!) !== 0) await find('its own process makes another picture of it');
    }
    return rss;
  }

  let sinceProgress = Date.now();
  try {
    for (; !isDone(report.count); report.count++) {
      try {
        const rss = await one(numbers(Math.imul(seed, 0x9e3779b1) + report.count));
        report.memory.push({ decoder: rss, self: process.memoryUsage.rss() });
      } catch (error) {
        await find(`neither a picture nor a refusal: ${error}`);
      }
      if (Date.now() - sinceProgress > MINUTE / 4) {
        sinceProgress = Date.now();
        onProgress?.(report);
      }
    }
    for (const name of ['decoder', 'self'] as const) {
      const grown = growth(report.memory.map((memory) => memory[name]));
      if (grown > MAX_GROWTH) report.found.push(`${name} has grown by ${Math.round(grown / MB)} MB`);
    }
    const left = await readdir(temporary);
    if (left.length > 0) report.found.push(`decoders left ${left.join(', ')}`);
    return report;
  } finally {
    if (decoder) {
      const ended = once(decoder, 'exit');
      decoder.kill('SIGKILL');
      await ended;
    }
    server.close();
    server.closeAllConnections();
    await rm(temporary, { recursive: true });
  }
}

/** How much the last tenth holds more than the second tenth did; medians, for single pictures may be large. 0 for few. */
export function growth(samples: number[]): number {
  const tenth = Math.floor(samples.length / 10);
  if (tenth < 10) return 0;
  const median = (part: number[]) => part.toSorted((a, b) => a - b)[Math.floor(part.length / 2)]!;
  return median(samples.slice(-tenth)) - median(samples.slice(tenth, 2 * tenth));
}

/** @returns whether nothing was found */
export async function soak(args: string[]): Promise<boolean> {
  const { values } = parseArgs({
    args,
    options: {
      minutes: { type: 'string', default: '10' },
      seed: { type: 'string', default: String(Date.now() % 1e6) },
    },
  });
  const [minutes, seed] = [Number(values.minutes), Number(values.seed)];
  if (!(minutes > 0) || !Number.isInteger(seed)) throw new Error('--minutes above 0, --seed a whole number');
  const end = Date.now() + minutes * MINUTE;
  console.log(`${minutes} minutes of changed pictures, seed ${seed}`);
  const say = ({ count, taken, refused, found, slowest, memory }: FuzzReport) => {
    const { decoder, self } = memory.at(-1) ?? { decoder: 0, self: 0 };
    const mb = (bytes: number) => `${Math.round(bytes / MB)} MB`;
    console.log(
      `${count} pictures: ${taken} taken, ${refused} refused, ${found.length} found; slowest ${Math.round(slowest)} ms; ` +
        `decoder ${mb(decoder)}, self ${mb(self)}`,
    );
  };
  const folder = join(tmpdir(), 'soak-pictures');
  const isDone = () => Date.now() > end;
  const report = await fuzzPictures({ seed, isDone, folder, ownProcess: 50, onProgress: say });
  say(report);
  for (const name of ['decoder', 'self'] as const) {
    const grown = growth(report.memory.map((memory) => memory[name]));
    console.log(
      `${name} grew by ${Math.round(grown / MB)} MB from the second tenth to the last (at most ${MAX_GROWTH / MB})`,
    );
  }
  for (const what of report.found) console.log(`FOUND ${what}`);
  return report.found.length === 0;
}
