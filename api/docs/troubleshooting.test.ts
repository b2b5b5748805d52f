import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

/** Of other programs: Node, npm, CUDA, Chromium, proxies and S3 stores. */
const FOREIGN =
  /ERR_MODULE_NOT_FOUND|ERR_UNKNOWN_FILE_EXTENSION|command not found|EBADENGINE|^Access to fetch|^413 |^504 |status code 401|^http:|SELF_SIGNED|"status": "queued"/;
/** The shortest piece of a message that identifies it: characters, and the share of the message. Values stand between pieces. */
const [PIECE, SHARE] = [14, 0.2];

test('the messages of the troubleshooting page are those of the code', () => {
  const sources = ['api', 'client', 'core', 'handler', 'infra']
    .flatMap((folder) =>
      readdirSync(ROOT + folder, { recursive: true, encoding: 'utf8' }).map((name) => `${folder}/${name}`),
    )
    .filter((name) => /\.(m?[jt]s)$/.test(name) && !/\.test\.ts$/.test(name))
    .map((name) => readFileSync(ROOT + name, 'utf8'))
    .join('\n');
  const page = readFileSync(`${ROOT}docs/troubleshooting.md`, 'utf8');
  const shown = [...page.matchAll(/^```text\n(.*?)^```$/gms)].flatMap(([, text]) => text!.trim().split('\n'));
  const inTable = [...page.matchAll(/^\| `([^`]{20,})` \|/gm)].map(([, text]) => text!);
  const isKnown = (message: string) => {
    const length = Math.max(PIECE, Math.ceil(SHARE * message.length));
    return Array.from({ length: message.length - length + 1 }, (_, i) => message.slice(i, i + length)).some((piece) =>
      sources.includes(piece),
    );
  };
  const messages = [...shown, ...inTable].filter((message) => !FOREIGN.test(message));
  expect(messages.length).toBeGreaterThan(40);
  expect(messages.filter((message) => !isKnown(message))).toEqual([]);
});
