import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Whether `path` is an executable file. */
export function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Whether PATH has a program of this name. */
export const hasProgram = (name: string) =>
  (process.env.PATH ?? '').split(delimiter).some((folder) => isProgram(join(folder, name)));
