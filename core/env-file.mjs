// Reads the variables of a file `.env`.
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import util from 'node:util'; // as a whole: a Node that is too old has no parseEnv

/**
 * Adds the variables of `.env` in the current folder to the environment. A variable that the environment has already, even an empty one,
 * stays. `process.loadEnvFile` has the same rules, but it takes an unreadable file for a missing one. It also loses variables silently
 * after a byte order mark or a wrong line.
 * @param {string[]} [only] names of the variables that are taken from a file that may be another program's; default: all
 * @throws Error in one line; a missing file is none
 */
export function loadEnvFile(only) {
  if (!util.parseEnv) return; // the program says that Node is too old
  const path = resolve('.env');
  let text;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(readFileSync(path)); // removes a byte order mark
  } catch (error) {
    if (error.code === 'ENOENT' || (only && error.code === 'EISDIR')) return; // such as a virtual environment of Python
    const reason = {
      EISDIR: 'it is a folder',
      EACCES: 'no permission',
      ERR_ENCODING_INVALID_ENCODED_DATA: 'not UTF-8',
    };
    throw new Error(`${path} can’t be read: ${reason[error.code] ?? error.code}`);
  }
  for (const [name, value] of Object.entries(util.parseEnv(text))) {
    if (only && !only.includes(name)) continue;
    if (!/^\w+$/.test(name))
      throw new Error(`${path} needs NAME=VALUE in each line: ${JSON.stringify(name)} is no name`);
    process.env[name] ??= value;
  }
}
