// Reads the variables of a file `.env`.
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import util from 'node:util'; // as a whole: a Node that is too old has no parseEnv, and the demo says so

/**
 * Adds the variables of `.env` in the current folder to the environment, as `process.loadEnvFile` does: a variable that the environment
 * has already, even an empty one, stays. Node's function itself reports a folder as a wrong argument, takes an unreadable file for a
 * missing one, and with a byte order mark or a wrong line loses a variable without a word.
 * @param {string[]} [only] names of the variables that are taken; default: all
 * @throws Error in one line; a missing file is none
 */
export function loadEnvFile(only) {
  const path = resolve('.env');
  let text;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(readFileSync(path)); // removes a byte order mark
  } catch (error) {
    if (error.code === 'ENOENT') return;
    const reason = {
      EISDIR: 'it is a folder',
      EACCES: 'no permission',
      ERR_ENCODING_INVALID_ENCODED_DATA: 'not UTF-8',
    };
    throw new Error(`${path} can’t be read: ${reason[error.code] ?? error.code}`);
  }
  for (const [name, value] of Object.entries(util.parseEnv(text))) {
    if (!/^\w+$/.test(name))
      throw new Error(`${path} needs NAME=VALUE in each line: ${JSON.stringify(name)} is no name`);
    if (!only || only.includes(name)) process.env[name] ??= value;
  }
}
