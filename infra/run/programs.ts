import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Whether this is a file that may be executed. */
export function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Whether there is a program of this name in PATH. */
export const hasProgram = (name: string) =>
  (process.env.PATH ?? '').split(delimiter).some((folder) => isProgram(join(folder, name)));
