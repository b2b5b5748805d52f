/**
 * The image's entry point: runs a role or a tool in this process, the first of its container.
 * Usage: [ROLE | TOOL] [ARGUMENT …]
 */
import '../run/env-file.mjs';
import { constants } from 'node:os';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ignoreOutputErrors } from '../../core/standard-output.ts';
import { defaultRole, ROLES, TOOLS } from './roles.ts';

ignoreOutputErrors();
const { env } = process;
const [name = defaultRole(env), ...args] = process.argv.slice(2);

// The first process of a container gets no signal without a listener. A running program has its own listeners.
for (const signal of ['SIGTERM', 'SIGINT'] as const)
  process.on(signal, () => {
    if (process.listenerCount(signal) === 1) process.exit(name in ROLES ? 0 : 128 + constants.signals[signal]);
  });

const programs: Record<string, string> = { ...ROLES, ...TOOLS };
if (!Object.hasOwn(programs, name)) {
  console.error(
    `${name}: must be a role (${Object.keys(ROLES).join(', ')}) or a tool (${Object.keys(TOOLS).join(', ')})`,
  );
  process.exit(1);
}

const model = { worker: env.MODEL || 'svd_xt', all: env.RUNPOD_ENDPOINT_ID ? undefined : env.MODEL }[name];
if (model) {
  const { ensureWeights } = await import('./ensure-weights.ts');
  try {
    await ensureWeights(model, env);
  } catch (error) {
    console.error(`${name}: ${(error as Error).message}`);
    process.exit(1);
  }
}

const program = new URL(programs[name]! + extname(import.meta.url), new URL('../..', import.meta.url));
process.argv.splice(1, Infinity, fileURLToPath(program), ...args); // as if started directly
await import(program.href);
