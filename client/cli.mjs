#!/usr/bin/env node
// The command `img2vid`, for `npx img2vid` in a checkout and after `npm link`: the program is TypeScript.
import { register } from 'tsx/esm/api';

register();
const { run } = await import('./cli.ts');
await run();
