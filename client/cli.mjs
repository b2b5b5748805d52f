#!/usr/bin/env node
// The command `img2vid` of a checkout: the program is TypeScript.
import { register } from 'tsx/esm/api';

register();
const { run } = await import('./cli.ts');
await run();
