/** Files of the command line and the demo: pictures that are sent, and videos that are saved. */
import { createHash, randomUUID } from 'node:crypto';
import { accessSync, constants, createWriteStream, existsSync, lstatSync, realpathSync, statSync } from 'node:fs';
import { readFile, rename, rm } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { Client, Task, Video } from './index.ts';

/** A file that cannot be read or saved. Its message is for the user. */
export class FileError extends Error {}

/**
 * @returns the absolute path of a file that the user names, after links. `npm run` starts programs in the folder of package.json, and
 * passes the user's own folder in INIT_CWD.
 */
export function userPath(path: string, env: NodeJS.ProcessEnv): string {
  const { INIT_CWD, npm_package_json = '' } = env;
  const absolute = resolve(INIT_CWD && dirname(npm_package_json) === process.cwd() ? INIT_CWD : '', path);
  return existsSync(absolute) ? realpathSync(absolute) : absolute;
}

/** @throws FileError */
export async function readPicture(path: string, env: NodeJS.ProcessEnv, signal?: AbortSignal): Promise<File> {
  const bytes = await readFile(userPath(path, env), { signal }).catch(({ code, message }: NodeJS.ErrnoException) => {
    signal?.throwIfAborted();
    throw new FileError(`--image ${path}: ${code === 'ENOENT' ? 'there is no such file' : message}`);
  });
  return new File([bytes], basename(path));
}

/** @returns undefined: nothing is there. @throws FileError the path is impossible, as one that is too long */
function readStats(path: string) {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'ENOTDIR') return undefined;
    throw new FileError(message, { cause: error });
  }
}
const isFolder = (path: string) => readStats(path)?.isDirectory() ?? false;

/** @throws FileError a video cannot be saved at this absolute path; a file is there, and `force` is not given */
export function checkOutput(path: string, force = false): void {
  const folder = isFolder(path) ? path : dirname(path);
  if (!isFolder(folder)) throw new FileError(`${path}: there is no folder ${folder}`);
  const file = path === folder ? undefined : readStats(path);
  if (!file && path !== folder && lstatSync(path, { throwIfNoEntry: false }))
    throw new FileError(`${path}: is a link to a missing file`);
  if (file && !file.isFile()) throw new FileError(`${path}: is no regular file`); // a device would be replaced
  if (file && !force) throw new FileError(`${path}: the file exists; --force overwrites it`);
  try {
    accessSync(folder, constants.W_OK);
  } catch {
    throw new FileError(`${path}: the folder ${folder} is not writable`);
  }
}

interface SaveOptions {
  client: Pick<Client, 'download'>;
  task: Task;
  video: Pick<Video, 'link' | 'filename' | 'sha256'>;
  /** absolute; in a folder the file gets its `filename` */
  path: string;
  force?: boolean;
  signal?: AbortSignal;
}

/**
 * The file gets its name only when it is complete and its SHA-256 is right.
 * @returns its path
 * @throws FileError says where the clip is; ApiError
 */
export async function saveVideo({ client, task, video, path, force, signal }: SaveOptions): Promise<string> {
  const isPlain = /^[\w-][\w.-]*$/.test(video.filename ?? ''); // the service could name a path; an older one names none
  const target = isFolder(path) ? join(path, isPlain ? video.filename : `${task.id}.mp4`) : path;
  const temporary = join(dirname(target), `.${task.id}-${randomUUID().slice(0, 8)}.part`); // a name of its own: a longer one than the target’s may be too long
  try {
    if (target !== path) checkOutput(target, force);
    const { body } = await client.download(video, { signal });
    const hash = createHash('sha256');
    const hashChunks = async function* (chunks: AsyncIterable<Uint8Array>) {
      for await (const chunk of chunks) {
        hash.update(chunk);
        yield chunk;
      }
    };
    await pipeline(body!, hashChunks, createWriteStream(temporary, { flush: true }), { signal });
    if (hash.digest('hex') !== video.sha256) throw new Error('the downloaded file is damaged; try again');
    if (target !== path || !force) checkOutput(target, force); // the file may have been created meanwhile
    await rename(temporary, target);
    return target;
  } catch (error) {
    await rm(temporary, { force: true });
    signal?.throwIfAborted();
    const { message } = error as Error;
    const reason = message.startsWith(target) ? message : `${target}: ${message}`;
    throw new FileError(
      `${reason}\nThe clip is finished. Get it with img2vid download ${task.id}, or from ${video.link}`,
      { cause: error },
    );
  }
}
