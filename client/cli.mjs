#!/usr/bin/env node
// The command `img2vid`, for `npx img2vid` in a checkout and after `npm link`: the program is TypeScript.
import { register } from 'tsx/esm/api';
import { loadEnvFile } from '../core/env-file.mjs';

register();
const { EXIT, run } = await import('./cli.ts');
try {
  // The file may be that of any project: its URL must not get the key of the environment.
  if (!process.env.IMG2VID_API_KEY) loadEnvFile(['IMG2VID_URL', 'IMG2VID_API_KEY']);
} catch (error) {
  console.error(error.message);
  process.exit(EXIT.file);
}
await run();
