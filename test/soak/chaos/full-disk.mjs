/**
 * Makes the disk of a program full for a while, as its bucket sees it: `--import …/full-disk.mjs`, after `fast-clock.mjs`. A post
 * meanwhile is stored after a repeated write, or answered 503 and repeated by its caller.
 */
import fsPromises from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';

/** Milliseconds of the fast clock. */
const PERIOD = 90_000;
const LENGTH = 20_000;

const { writeFile } = fsPromises;
fsPromises.writeFile = async (path, ...rest) => {
  if (/bucket/.test(String(path)) && Date.now() % PERIOD < LENGTH)
    throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC', syscall: 'write' });
  return writeFile(path, ...rest);
};
syncBuiltinESMExports();
