/**
 * `npm run models -- NAME`: brings a model's files from the Hugging Face hub into its cache, where the worker finds them, and where
 * Python's huggingface_hub finds and leaves the same ones.
 *
 * A file is first a part, `blobs/HASH.incomplete`, which grows over as many connections and runs as it takes. Once it is whole and
 * its hash is right it is the blob `blobs/HASH`. When all blobs are there, `snapshots/COMMIT` gets its links to them.
 */
import { createHash } from 'node:crypto';
import { createReadStream, realpathSync, statSync } from 'node:fs';
import { constants, type FileHandle, mkdir, open, rename, rm, statfs, symlink, writeFile } from 'node:fs/promises';
import { dirname, join, relative, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { type Client, createClient } from '@libsql/client';
import { formatBytes } from '../../core/format.ts';
import { SECOND } from '../../core/time.ts';
import {
  CONFIGS,
  cacheName,
  findWeights,
  hubCache,
  REPOSITORIES,
  SUFFIXES,
  WEIGHTS,
  type WeightsName,
} from '../../handler/models/weights.ts';
import { type Hub, openHub, Passing, persist, type RemoteFile } from './hub-client.ts';
import { transferBar } from './transfer-bar.ts';

const WAITS = [1, 2, 5, 10, 30].map((seconds) => seconds * SECOND);
const LOCK_POLL = 0.2 * SECOND;

/** Taken where the repository has them. */
const EXTRAS = /^(model_index\.json|scheduler\/scheduler_config\.json|(licen[cs]e|notice|readme)(\.\w+)?)$/i;

const USAGE = `npm run models -- NAME [--precision fp16|fp32] [--revision REVISION] [--cache FOLDER]

  NAME         ${Object.keys(REPOSITORIES).join(', ')}
  --precision  fp16 (the default) has half the bytes; fp32 is what Python takes unless told otherwise
  --revision   a branch, tag or commit; main by default
  --cache      instead of Hugging Face's own cache (HF_HUB_CACHE, HF_HOME)

A download that breaks off goes on where it was when this is run again.
`;

export interface Surroundings {
  env: NodeJS.ProcessEnv;
  /** gets a bar if it is a terminal, else a line for each file */
  out: { write(text: string): unknown; isTTY?: boolean };
  err: { write(text: string): unknown };
  /** before each new try, when several in a row have brought nothing; milliseconds */
  waits?: number[];
  /** how long a connection may be silent; milliseconds */
  silence?: number;
}

interface Wanted {
  model: WeightsName;
  precision: keyof typeof SUFFIXES;
  revision: string;
  /** the cache of all repositories */
  cache: string;
}

/** @returns the exit status; what went wrong is one line on `err` */
export async function main(args: string[], { env, out, err, waits = WAITS, silence = 30 * SECOND }: Surroundings) {
  try {
    const wanted = readArguments(args, env);
    if (wanted) await bring(wanted, { env, waits, silence, progress: transferBar(out) });
    else out.write(USAGE);
    return 0;
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    err.write(`${message}${error instanceof Passing ? '; run this again to go on from there' : ''}\n`);
    return 1;
  }
}

type Tools = Required<Pick<Surroundings, 'env' | 'waits' | 'silence'>> & { progress: ReturnType<typeof transferBar> };

async function bring({ model, precision, revision, cache }: Wanted, { env, waits, silence, progress }: Tools) {
  const repository = REPOSITORIES[model];
  const hub = openHub(repository, { env, waits, silence, say: progress.log });
  try {
    const commit = await hub.commit(revision);
    const files = choose(await hub.list(commit), precision, `${repository} at ${revision}`);

    const folder = join(cache, cacheName(repository));
    const snapshot = join(folder, 'snapshots', commit);
    const lock = await lockFor(join(cache, '.locks', cacheName(repository), 'npm-run-models.db'), progress.log);
    try {
      const missing = files.filter(({ path, size }) => sizeOf(join(snapshot, path)) !== size);
      const blobOf = ({ etag }: RemoteFile) => join(folder, 'blobs', etag);
      const toBring = missing.filter((file) => sizeOf(blobOf(file)) !== file.size);
      await mkdir(join(folder, 'blobs'), { recursive: true });
      await checkSpace(cache, toBring, blobOf);

      progress.start(toBring.reduce((sum, { size }) => sum + size, 0));
      try {
        for (const file of toBring) await download(file, blobOf(file), { hub, commit, waits, progress });
      } finally {
        progress.end();
      }

      for (const file of missing) await link(blobOf(file), join(snapshot, file.path));
      if (revision !== commit) await writeRef(join(folder, 'refs', revision), commit);
    } finally {
      lock.close();
    }
    progress.log(`${model} is in ${snapshot}; ${howToUse(model, snapshot, env)}`);
  } finally {
    await hub.close();
  }
}

/** @returns nothing where only the usage is asked for */
function readArguments(args: string[], env: NodeJS.ProcessEnv): Wanted | undefined {
  const options = {
    precision: { type: 'string', default: 'fp16' },
    revision: { type: 'string', default: 'main' },
    cache: { type: 'string', default: hubCache(env) },
    help: { type: 'boolean' },
  } as const;
  let parsed: ReturnType<typeof parseArgs<{ options: typeof options; allowPositionals: true }>>;
  try {
    parsed = parseArgs({ args, options, allowPositionals: true });
  } catch (error) {
    throw wrongArguments((error as Error).message.split(/[.\n]/)[0]!);
  }
  const { values, positionals } = parsed;
  if (values.help) return undefined;
  const [model = '', ...others] = positionals;
  if (!Object.hasOwn(REPOSITORIES, model) || others.length > 0)
    throw wrongArguments(model === '' ? 'which model?' : `${[model, ...others].join(' ')} is no model that is known`);
  if (!Object.hasOwn(SUFFIXES, values.precision)) throw wrongArguments('--precision must be fp16 or fp32');
  if (!/^\w[\w.-]*(\/\w[\w.-]*)*$/.test(values.revision)) throw wrongArguments('--revision must be a git revision');
  return {
    model: model as WeightsName,
    precision: values.precision as Wanted['precision'],
    revision: values.revision,
    cache: resolve(values.cache),
  };
}

const wrongArguments = (message: string) => new Error(`${message}\n\n${USAGE.trimEnd()}`);

/**
 * What the worker needs in one precision, configs first: they are small, so that a closed gate shows at once.
 * @throws Error that names what the repository does not have
 */
function choose(files: RemoteFile[], precision: Wanted['precision'], where: string): RemoteFile[] {
  const needed = [...CONFIGS, ...WEIGHTS.map((stem) => stem + SUFFIXES[precision])];
  const lacking = needed.filter((path) => !files.some((file) => file.path === path));
  if (lacking.length > 0) throw new Error(`${where} has no ${lacking.join(', ')}`);
  return [
    ...files.filter(({ path }) => EXTRAS.test(path)),
    ...needed.map((path) => files.find((file) => file.path === path)!),
  ];
}

async function checkSpace(cache: string, files: RemoteFile[], blobOf: (file: RemoteFile) => string) {
  const needed = files.reduce((sum, file) => sum + file.size - (sizeOf(`${blobOf(file)}.incomplete`) ?? 0), 0);
  const { bavail, bsize } = await statfs(cache);
  if (needed > bavail * bsize)
    throw new Error(`${cache} has ${formatBytes(bavail * bsize)} free, and ${formatBytes(needed)} are still to come`);
}

interface Download {
  hub: Hub;
  commit: string;
  waits: number[];
  progress: Tools['progress'];
}

/**
 * Brings one file and gives it its name. A part that was there before and does not fit is thrown away, once.
 * @throws Error: it can't be had, or what arrived is not what the hub lists
 */
async function download(file: RemoteFile, blob: string, { hub, commit, waits, progress }: Download): Promise<void> {
  const { path, size, etag } = file;
  const part = `${blob}.incomplete`;
  const before = sizeOf(part) ?? 0;
  progress.startFile(path, size, before);

  const handle = await open(part, constants.O_RDWR | constants.O_CREAT);
  let hash: string;
  try {
    const arrived = async () => (await handle.stat()).size;
    await persist(() => fetchRest(handle, file, { hub, commit, progress }), { waits, say: progress.log, arrived });
    progress.showChecking();
    hash = await hashOf(part, size, etag);
    if (hash === etag) await handle.datasync(); // or a power cut could leave a blob with holes
  } finally {
    await handle.close();
  }
  if (hash === etag) {
    await rename(part, blob);
    progress.finishFile(size);
    return;
  }
  await rm(part);
  if (before === 0)
    throw new Error(`${path}: what arrived is not what the hub lists (its hash is ${hash}); it was deleted`);
  progress.log(`${path}: what was there of it does not fit; it is brought anew`);
  await download(file, blob, { hub, commit, waits, progress });
}

/**
 * Asks for what the part still lacks and writes it there. The address names a commit, so what it leads to never changes.
 * @throws Passing: it broke off; what had arrived is in the part
 */
async function fetchRest(
  part: FileHandle,
  { path, size }: RemoteFile,
  { hub, commit, progress }: Omit<Download, 'waits'>,
) {
  let position = (await part.stat()).size;
  if (position > size) {
    await part.truncate(0); // of another file, or more than was sent for
    position = 0;
  }
  if (position === size) return;

  const response = await hub.file(commit, path, position);
  const from = response.headers.get('content-range')?.match(/^bytes (\d+)-/)?.[1];
  const isRest = response.status === 206 && Number(from) === position;
  if (!isRest && position > 0) {
    await part.truncate(0); // the server knows no parts, or not this one
    position = 0;
  }
  if (!isRest && response.status !== 200) {
    await response.body?.cancel();
    throw new Passing(`${path}: the server does not send what is asked for (status ${response.status})`);
  }

  const reader = response.body!.getReader();
  try {
    while (position <= size) {
      progress.move(position);
      const { done, value } = await reader.read().catch((cause) => {
        throw new Passing(`${path}: the connection broke at ${formatBytes(position)} of ${formatBytes(size)}`, {
          cause,
        });
      });
      if (done) break;
      for (let written = 0; written < value.length; )
        written += (await part.write(value, written, value.length - written, position + written)).bytesWritten;
      position += value.length;
    }
  } finally {
    await reader.cancel().catch(() => undefined); // it may have broken already
  }
  if (position !== size) throw new Passing(`${path}: ends at ${position} bytes, and the hub lists ${size}`);
}

/** The whole file's hash, of the kind that the expected one is: a sha256, or git's id of a blob. */
async function hashOf(path: string, size: number, expected: string): Promise<string> {
  const hash = expected.length === 64 ? createHash('sha256') : createHash('sha1').update(`blob ${size}\0`);
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk);
  return hash.digest('hex');
}

/** A relative link, so that the cache can be moved. */
async function link(blob: string, path: string) {
  await mkdir(dirname(path), { recursive: true });
  await rm(path, { force: true }); // one that leads nowhere
  await symlink(relative(dirname(path), blob), path);
}

async function writeRef(path: string, commit: string) {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, commit);
}

/** Whether the worker finds it by itself, or must be told. */
function howToUse(model: WeightsName, snapshot: string, env: NodeJS.ProcessEnv): string {
  let found: string | undefined;
  try {
    found = resolve(findWeights(model, env).folder);
  } catch {
    // nowhere that it looks
  }
  return found === snapshot
    ? `MODEL=${model} npm start finds it there`
    : `MODEL=${model} MODEL_DIR=${snapshot} npm start takes it from there`;
}

/**
 * Keeps other runs of this command from the same parts, and waits for them. The operating system lets go of the lock when its
 * process dies, however it dies.
 */
async function lockFor(path: string, say: (text: string) => void): Promise<{ close(): void }> {
  await mkdir(dirname(path), { recursive: true });
  let client: Client | undefined;
  for (let isFirst = true; ; isFirst = false) {
    try {
      client ??= createClient({ url: pathToFileURL(path).href, timeout: 0 });
      const transaction = await client.transaction('write'); // never committed
      return {
        close() {
          transaction.close(); // closing the client alone would leave the lock to the garbage collector
          client?.close();
        },
      };
    } catch (error) {
      if ((error as { code?: string }).code !== 'SQLITE_BUSY') {
        // Some network volumes know no locks. Two would then spoil each other's parts, which the hashes would show.
        say(`${path} can’t be locked (${(error as Error).message}): do not run this twice at once`);
        return { close: () => client?.close() };
      }
      if (isFirst) say('another npm run models is bringing this model; waiting for it to end …');
      await delay(LOCK_POLL);
    }
  }
}

function sizeOf(path: string): number | undefined {
  return statSync(path, { throwIfNoEntry: false })?.size;
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  process.once('SIGINT', () => {
    process.stdout.write('\nwhat has arrived stays for the next time\n');
    process.exit(130);
  });
  process.exitCode = await main(process.argv.slice(2), {
    env: process.env,
    out: process.stdout,
    err: process.stderr,
  });
}
