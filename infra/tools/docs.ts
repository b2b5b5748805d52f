/**
 * `npm run docs`: writes what is generated from the code: tables in docs/, between their markers, .env.example, docs/plots, and the
 * client's types and parameters.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { ERROR_CODES, type ErrorCode } from '../../core/job.ts';
import { parameterRows } from '../../core/parameter-schema.ts';
import { PICTURE_LIMITS_TEXT, PICTURE_TYPES_TEXT } from '../../core/picture/limits.ts';
import { PROBLEMS } from '../../core/problems.ts';
import { clientTypes } from './client-types.ts';
import { isMain } from './command.ts';
import { envExample, GROUPS, HEAD, tableRows } from './configuration.ts';
import { plots } from './plots.ts';

export const WRITTEN = ['docs/api/parameters.md', 'docs/api/errors.md', 'docs/configuration.md'];

/** The limits of a service that sets none. */
const LIMITS = { maxFrames: 100, maxFps: 120 };

/** What a caller can do about a task that failed with this code. */
const REMEDIES: Record<ErrorCode, string> = {
  invalid_input:
    'Lower `image_index` if the message names it. Else tell the operator: worker and API have different versions or models',
  banned_prompt: 'Change the prompt: the image provider refuses it',
  no_bridge: 'Send a picture: there is no image provider',
  no_credit: 'Tell the operator: the bridge’s credit is used up',
  queue_full: 'Try again later: the bridge has too much to do',
  rate_limited: 'Try again later: the bridge limits requests',
  image_unavailable: 'Make `image_url` publicly reachable, or upload the picture',
  image_rejected: `Send a complete ${PICTURE_TYPES_TEXT} (${PICTURE_LIMITS_TEXT}) at a public URL`,
  upstream_timeout: 'Try again: the bridge took too long',
  upstream_error: 'Try again: the bridge failed or gave an unknown answer',
  out_of_memory:
    'Make the clip smaller (`H`, `W`, `T`, `decoding_t`). The message names the largest size that fits, if known',
  storage_error: 'Try again: the bucket could not be reached, or a disk was full',
  canceled: 'Nothing: the job was canceled at RunPod',
  timeout: 'Make the clip smaller, or try again: the job took longer than the endpoint allows',
  expired: 'Try again: the task did not end before the service’s deadline',
  lost: 'Try again. If a prompt may have reached a bridge, the new task may pay for it a second time',
  internal: 'Try again, and tell the operator: the worker’s log has details',
};

const table = (head: string[], rows: string[][]) =>
  [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');

const TABLES: Record<string, () => string> = {
  parameters: () =>
    table(
      ['name', 'range and default', 'meaning'],
      parameterRows(LIMITS).map(({ name, range, defaultValue, description }) => [
        name,
        defaultValue ? `${range}; default ${defaultValue}` : range,
        description,
      ]),
    ),
  problems: () =>
    table(
      ['status', 'code', 'what to do'],
      Object.entries(PROBLEMS).map(([code, { status, remedy }]) => [String(status), `\`${code}\``, remedy]),
    ),
  variables: () => GROUPS.map((group) => `## ${group}\n\n${table(HEAD, tableRows(group))}`).join('\n\n'),
  failures: () =>
    table(
      ['code', 'retryable', 'what to do'],
      Object.entries(ERROR_CODES).map(([code, { retryable }]) => [
        `\`${code}\``,
        retryable ? 'yes' : 'no',
        REMEDIES[code as ErrorCode],
      ]),
    ),
};

/** @returns the text with its tables replaced by the generated ones */
export const current = (text: string) =>
  text.replace(
    /(<!-- (\w+) -->\n)[\s\S]*?(<!-- \/\2 -->)/g,
    (_, begin: string, name: string, end: string) => `${begin}\n${TABLES[name]!()}\n\n${end}`,
  );

/** @returns the text of each generated file of the client, by its path */
export function clientFiles(): Record<string, string> {
  const format = (path: string, input: string) =>
    execFileSync('node_modules/.bin/biome', ['format', `--stdin-file-path=${path}`], { input, encoding: 'utf8' });
  return {
    'client/types.ts': format('client/types.ts', clientTypes(LIMITS)),
    'client/parameters.json': format('client/parameters.json', JSON.stringify(parameterRows(LIMITS), null, 2)),
  };
}

const fileOf = (name: string) => new URL(`../../${name}`, import.meta.url);
export const read = (name: string) => readFileSync(fileOf(name), 'utf8');

if (isMain(import.meta.url)) {
  for (const name of WRITTEN) writeFileSync(fileOf(name), current(read(name)));
  writeFileSync(fileOf('.env.example'), envExample());
  for (const [path, text] of Object.entries(clientFiles())) writeFileSync(fileOf(path), text);
  for (const [name, svg] of Object.entries(plots())) writeFileSync(fileOf(`docs/plots/${name}.svg`), svg);
}
