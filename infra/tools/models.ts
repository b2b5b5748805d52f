/**
 * `npm run models`: downloads a model's files from the Hugging Face hub into its cache, where the worker finds them. The layout is
 * that of Python's huggingface_hub, so both use the same files: `blobs/HASH`, and `snapshots/COMMIT` with links to the blobs, which
 * are made when all blobs are there.
 */
import { mkdir, rm, statfs, symlink, writeFile } from 'node:fs/promises';
import { dirname, join, relative, resolve } from 'node:path';
import { CLEAR_LINE, formatBytes } from '../../core/format.ts';
import { SECOND } from '../../core/time.ts';
import {
  CONFIGS,
  cacheName,
  findWeights,
  hubCache,
  REPOSITORIES,
  SUFFIXES,
  UNETS,
  type WeightsName,
  weightsOf,
} from '../../handler/models/weights.ts';
import { type CliIo, defineCommand, runIfMain, UsageError, type Values } from './command.ts';
import { download, partialSize, sizeOf } from './download.ts';
import { lockFile } from './file-lock.ts';
import { openHub, type RemoteFile } from './hub-client.ts';
import { TransientError } from './retry.ts';
import { transferBar } from './transfer-bar.ts';

const RETRY_DELAYS = [1, 2, 5, 10, 30].map((seconds) => seconds * SECOND);

/** Also downloaded where the repository has them. */
const EXTRAS = /^(model_index\.json|scheduler\/scheduler_config\.json|(licen[cs]e|notice|readme)(\.\w+)?)$/i;

const NAMES = Object.keys(REPOSITORIES);
const OPTIONS = {
  precision: { value: 'P', help: 'fp16 (the default) is half as large; fp32 is the default of Python' },
  revision: { value: 'R', help: 'a branch, tag or commit; default main' },
  cache: { value: 'FOLDER', help: 'the cache folder; default Hugging Face’s own (HF_HUB_CACHE, HF_HOME)' },
} as const;

export const main = defineCommand<ModelsIo & CliIo>(
  'npm run models',
  { '': { help: 'downloads a model', args: [NAMES.join('|')], options: OPTIONS, run } },
  'To continue an interrupted download, run the command again.',
);

export interface ModelsIo extends Pick<CliIo, 'env' | 'out'> {
  /** Pauses between attempts that receive nothing, in milliseconds. */
  delays?: readonly number[];
  /** How long a connection may be silent, in milliseconds. */
  idleTimeout?: number;
}

async function run(io: ModelsIo & CliIo, values: Values<typeof OPTIONS>, model = ''): Promise<undefined> {
  const { precision = 'fp16', revision } = values;
  if (!NAMES.includes(model)) throw new UsageError(`${model}: must be one of ${NAMES.join(', ')}`);
  if (!Object.hasOwn(SUFFIXES, precision)) throw new UsageError('--precision must be fp16 or fp32');
  if (revision !== undefined && !/^\w[\w.-]*(\/\w[\w.-]*)*$/.test(revision))
    throw new UsageError('--revision must be a git revision');
  const onInterrupt = () => {
    io.out.write('\nthe received part is kept for the next run\n');
    process.exit(130);
  };
  process.once('SIGINT', onInterrupt);
  try {
    await fetchModel(model as WeightsName, values, io);
  } finally {
    process.off('SIGINT', onInterrupt);
  }
}

/** @param values as on the command line. @throws Error in one line */
export async function fetchModel(model: WeightsName, values: Values<typeof OPTIONS>, io: ModelsIo): Promise<void> {
  const { precision = 'fp16', revision = 'main' } = values;
  const { env, out } = io;
  const cache = resolve(values.cache ?? hubCache(env));
  const unet = UNETS[model];
  // A revision is one of the model's own repository.
  const others = { repository: REPOSITORIES[model], revision: unet ? 'main' : revision, model, cache };
  const snapshot = await fetchFiles({ ...others, choose: (files) => chooseFiles(files, precision, model) }, io);
  if (unet) {
    const choose = (files: RemoteFile[]) => withExtras(files, [unet.file]);
    await fetchFiles({ ...unet, revision, model, cache, choose }, io);
  }
  out.write(`${out.isTTY ? CLEAR_LINE : ''}${model} is in ${snapshot}; ${howToUse(model, snapshot, cache, env)}\n`);
}

interface Source {
  model: WeightsName;
  repository: string;
  revision: string;
  cache: string;
  /** @throws Lacking */
  choose: (files: RemoteFile[]) => RemoteFile[];
}

/** Downloads files of one repository into the cache. @returns the folder of the snapshot. @throws Error in one line */
async function fetchFiles(
  { repository, revision, cache, choose }: Source,
  { env, out, delays = RETRY_DELAYS, idleTimeout = 30 * SECOND }: ModelsIo,
): Promise<string> {
  const clear = out.isTTY ? CLEAR_LINE : '';
  const log = (line: string) => void out.write(`${clear}${line}\n`);
  const hub = openHub(repository, { env, delays, idleTimeout, log });
  try {
    const { commit, files } = await hub.list(revision);
    const wanted = choose(files);
    const folder = join(cache, cacheName(repository));
    const snapshot = join(folder, 'snapshots', commit);
    const onWait = () => log('another npm run models is downloading this model; waiting for it to end …');
    const unlock = await lockFile(join(cache, '.locks', cacheName(repository), 'npm-run-models.db'), onWait, log);
    try {
      const blobOf = ({ etag }: RemoteFile) => join(folder, 'blobs', etag);
      const unlinked = wanted.filter(({ path, size }) => sizeOf(join(snapshot, path)) !== size);
      const missing = unlinked.filter((file) => sizeOf(blobOf(file)) !== file.size);
      await mkdir(join(folder, 'blobs'), { recursive: true });
      await checkSpace(cache, missing, blobOf);

      const progress = transferBar(
        out,
        missing.reduce((sum, { size }) => sum + size, 0),
      );
      for (const file of missing) await download(file, blobOf(file), { hub, commit, delays, log, progress });
      for (const file of unlinked) await link(blobOf(file), join(snapshot, file.path));
      if (revision !== commit) {
        const ref = join(folder, 'refs', revision);
        await mkdir(dirname(ref), { recursive: true });
        await writeFile(ref, commit);
      }
    } finally {
      out.write(clear);
      unlock();
    }
    return snapshot;
  } catch (error) {
    if (error instanceof Lacking) throw new Error(`${repository} at ${revision} has no ${error.message}`);
    if (!(error instanceof TransientError)) throw error;
    throw new Error(`${error.message}; run this again to continue`, { cause: error });
  } finally {
    await hub.close();
  }
}

/** Files that a repository should have. */
class Lacking extends Error {}

/** What the worker needs in one precision. Configs come first: they are small, so a licence that is not accepted shows at once. */
const chooseFiles = (files: RemoteFile[], precision: string, model: WeightsName): RemoteFile[] =>
  withExtras(files, [
    ...CONFIGS,
    ...weightsOf(model).map((stem) => stem + SUFFIXES[precision as keyof typeof SUFFIXES]),
  ]);

/** Files by their paths, after the extras of their repository. @throws Lacking */
function withExtras(files: RemoteFile[], needed: readonly string[]): RemoteFile[] {
  const find = (path: string) => files.find((file) => file.path === path);
  const lacking = needed.filter((path) => !find(path));
  if (lacking.length > 0) throw new Lacking(lacking.join(', '));
  return [...files.filter(({ path }) => EXTRAS.test(path)), ...needed.map((path) => find(path)!)];
}

async function checkSpace(cache: string, files: RemoteFile[], blobOf: (file: RemoteFile) => string) {
  const needed = files.reduce((sum, file) => sum + file.size - partialSize(blobOf(file)), 0);
  const { bavail, bsize } = await statfs(cache);
  if (needed > bavail * bsize)
    throw new Error(`${cache} has ${formatBytes(bavail * bsize)} free, but ${formatBytes(needed)} are needed`);
}

/** A relative link, so that the cache can be moved. */
async function link(blob: string, path: string) {
  await mkdir(dirname(path), { recursive: true });
  await rm(path, { force: true }); // a broken link
  await symlink(relative(dirname(path), blob), path);
}

/** Whether the worker finds the files by itself, or needs a variable. */
function howToUse(model: WeightsName, snapshot: string, cache: string, env: NodeJS.ProcessEnv): string {
  try {
    if (resolve(findWeights(model, env).folder) === snapshot) return `MODEL=${model} npm start finds it there`;
  } catch {
    // not where the worker searches
  }
  const variable = UNETS[model] ? `HF_HUB_CACHE=${cache}` : `MODEL_DIR=${snapshot}`; // MODEL_DIR is one folder
  return `MODEL=${model} ${variable} npm start uses it from there`;
}

await runIfMain(import.meta.url, main);
