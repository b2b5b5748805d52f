import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseEnv } from 'node:util';
import * as v from 'valibot';
import { expect, test } from 'vitest';
import { readEnvironment } from '../../core/environment.ts';
import { readEndpointFile } from '../deploy/endpoint-file.ts';
import { envExample, ROWS, SCHEMAS } from './configuration.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const read = (path: string) => readFileSync(join(ROOT, path), 'utf8');

/** Variables that a program of ours sets only for itself or for a child, and does not take from outside. */
const INTERNAL = ['SHARP', 'AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED'];

const sources = ['api', 'client', 'core', 'handler', 'infra']
  .flatMap((folder) => readdirSync(join(ROOT, folder), { recursive: true }).map((name) => join(folder, String(name))))
  .filter((path) => /\.(ts|mjs)$/.test(path) && !/\.test\.ts$|testdata|core\/variables\.ts$/.test(path))
  .map(read);

/** The variables that code reads as `env.NAME` or by destructuring. */
function namesIn(text: string): string[] {
  const members = [...text.matchAll(/\benv(?:ironment)?\??\.([A-Z]\w{2,}|npm_\w+)/g)].map(([, name]) => name!);
  const patterns = [...text.matchAll(/\{([^{}]*)\} = (?:\w+\.)?env(?:ironment)?\b/g)].map(([, inside]) => inside!);
  const destructured = patterns.flatMap((inside) => inside.match(/(?<=^|,)\s*(?:[A-Z]\w{2,}|npm_\w+)/g) ?? []);
  return [...members, ...destructured.map((name) => name.trim())];
}

test('the scan sees all ways to read a variable', () => {
  const text =
    'process.env.ONE; env?.TWO; environment.npm_x; const { THREE, FOUR: four = "a", npm_y = 1, ...env } = io.env;';
  expect(namesIn(text)).toEqual(['ONE', 'TWO', 'npm_x', 'THREE', 'FOUR', 'npm_y']);
});

test('the table has every variable that code reads, and no other', () => {
  const { required, optional } = readEndpointFile(join(ROOT, 'infra/deploy/endpoint.json')).env;
  const pod = [...read('commands.txt').matchAll(/\$\{(\w+):-/g)].map(([, name]) => name!);
  const isProxyRead = sources.some((text) => text.includes('new EnvHttpProxyAgent('));
  const inCode = [
    ...sources.flatMap(namesIn),
    ...Object.values(SCHEMAS).flatMap((schemas) => Object.keys(schemas)),
    ...[...required, ...optional, ...pod],
    ...(isProxyRead ? ['HTTPS_PROXY'] : []),
  ].filter((name) => !INTERNAL.includes(name));
  expect(ROWS.map(({ name }) => name).sort()).toEqual([...new Set(inCode)].sort());

  // @ts-expect-error Without a row a variable can't be validated either.
  expect(readEnvironment({ NO_ROW: v.optional(v.string()) }, {})).toEqual({});
});

test('every row says what is allowed and who reads the variable', () => {
  expect(ROWS.filter(({ allowed, text }) => !allowed || !text)).toEqual([]);
  for (const program of ['API', 'worker'] as const)
    for (const name of Object.keys(SCHEMAS[program]))
      expect(ROWS.find((row) => row.name === name)!.by, name).toContain(program);
});

test('.env.example is generated (npm run docs), and every value in it is allowed', () => {
  const text = read('.env.example');
  expect(text).toBe(envExample());
  const example = parseEnv(text.replace(/^# (?=\w+=)/gm, ''));
  expect(Object.keys(example).length).toBeGreaterThan(40);
  const needed = { RUNPOD_API_KEY: 'x', RUNPOD_ENDPOINT_ID: 'x' };
  for (const [program, schemas] of Object.entries(SCHEMAS))
    expect(() => readEnvironment(schemas as typeof SCHEMAS.API, { ...example, ...needed }), program).not.toThrow();
});
