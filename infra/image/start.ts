/**
 * The image's one entry: runs a role or a tool in this process, which is the first of its container.
 * Usage: [ROLE | TOOL] [ARGUMENT …]
 */
import { constants } from 'node:os';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { defaultRole, ROLES, TOOLS } from './roles.ts';

const { env } = process;
const [word = defaultRole(env), ...args] = process.argv.slice(2);

// The first process of a container gets no signal that it does not listen to. Once a program works it has listeners of its own.
for (const signal of ['SIGTERM', 'SIGINT'] as const)
  process.on(signal, () => {
    if (process.listenerCount(signal) === 1) process.exit(word in ROLES ? 0 : 128 + constants.signals[signal]);
  });

const programs: Record<string, string> = { ...ROLES, ...TOOLS };
if (!Object.hasOwn(programs, word)) {
  console.error(
    `${word} is nothing that this image can run: it runs ${Object.keys(ROLES).join(', ')}, and the tools ${Object.keys(TOOLS).join(', ')}`,
  );
  process.exit(1);
}

const model = { worker: env.MODEL || 'svd_xt', all: env.RUNPOD_ENDPOINT_ID ? undefined : env.MODEL }[word];
if (model) {
  const { ensureWeights } = await import('./ensure-weights.ts');
  try {
    await ensureWeights(model, env);
  } catch (error) {
    console.error(`${word}: ${(error as Error).message}`);
    process.exit(1);
  }
}

const program = new URL(programs[word]! + extname(import.meta.url), new URL('../..', import.meta.url));
process.argv.splice(1, Infinity, fileURLToPath(program), ...args); // as if it had been started itself
await import(program.href);
