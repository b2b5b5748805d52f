/** Clients in several languages upload a picture as multipart/form-data, each in its library's own form. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { hasProgram, isProgram } from '../../infra/run/programs.ts';
import { type TestService, testService } from '../support/test-api.ts';

const here = (name: string) => fileURLToPath(new URL(`uploaders/${name}`, import.meta.url));
const PICTURE = fileURLToPath(new URL('../../assets/coffee.png', import.meta.url));
/** The program that a variable names, which `.ci/run` sets. */
const named = (variable: string) => [process.env[variable]].find((path) => path && isProgram(path));

const installed = (name: string) => (hasProgram(name) ? name : undefined);

const python = named('UPLOAD_PYTHON');
const CLIENTS: [name: string, program: string | undefined, args: string[]][] = [
  ['curl', installed('curl'), ['-s', '-F', 'T=1', '-F', `image=@${PICTURE};filename="my \\"best\\" café photo.png"`]],
  ['Node’s fetch', process.execPath, [here('upload.mjs'), 'fetch']],
  ['undici', process.execPath, [here('upload.mjs'), 'undici']],
  ['Python’s requests', python, [here('upload.py'), 'requests']],
  ['Python’s httpx', python, [here('upload.py'), 'httpx']],
  ['Python’s aiohttp', python, [here('upload.py'), 'aiohttp']],
  ['Python’s urllib3', python, [here('upload.py'), 'urllib3']],
  ['Go', named('UPLOAD_GO'), []],
  ['Ruby', installed('ruby'), [here('upload.rb')]],
  ['PHP’s curl', installed('php'), [here('upload.php')]],
];

let service: TestService;
beforeAll(async () => {
  service = await testService();
});
afterAll(() => service.close());

for (const [name, program, args] of CLIENTS) {
  if (!program) console.warn(`no ${name}: its upload is not tested`);
  test.skipIf(!program)(`${name} uploads a picture${program ? '' : ' (not installed: skipped)'}`, async () => {
    const url = `${service.url}/img2vid?dry_run=1`;
    const { stdout } = await promisify(execFile)(program!, [...args, url, ...(name === 'curl' ? [] : [PICTURE])]);
    expect(JSON.parse(stdout)).toMatchObject({ input: { T: 1 }, warnings: [] });
  });
}
