/** Schemathesis sends what the OpenAPI document allows, and what it does not: the API must not fail, and every answer must be documented. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { testService } from '../support/test-api.ts';

const python = process.env.SCHEMATHESIS_PYTHON;
const skipped = python ? '' : ' (no SCHEMATHESIS_PYTHON: skipped)';
if (!python) console.warn('no SCHEMATHESIS_PYTHON: tests with schemathesis are skipped');
const EXAMPLES = process.env.SCHEMATHESIS_EXAMPLES ?? '20';
const SEED = process.env.SCHEMATHESIS_SEED ?? '1';

/**
 * Checks that do not apply: parameters that do not belong to the chosen options are ignored, and some pairs of them have rules. A deleted
 * task remains, without its files.
 */
const EXCLUDED = ['negative_data_rejection', 'positive_data_acceptance', 'use_after_free'];

/**
 * The phase `coverage` sends the limits of every field, in each content type: most of all requests. POST /tasks is POST /img2vid by another
 * path, so it is left to the other phases.
 */
const CONFIG = `[[operations]]
include-operation-id = "createTask"
phases.coverage.enabled = false
`;

test.skipIf(!python)(
  `every answer is one that the OpenAPI document describes${skipped}`,
  async () => {
    const service = await testService();
    const cwd = await mkdtemp(join(tmpdir(), 'schemathesis-')); // it writes into its working folder
    await writeFile(join(cwd, 'schemathesis.toml'), CONFIG);
    const working = new AbortController();
    const work = workAll(service, working.signal);

    const args = ['-m', 'schemathesis.cli', 'run', `${service.url}/openapi.json`, '--url', service.url];
    args.push('--checks', 'all', '--exclude-checks', EXCLUDED.join(','), '--max-examples', EXAMPLES, '--seed', SEED);
    args.push('--exclude-path-regex', '^/(openapi.json|files)', '--no-color');
    const child = spawn(python!, args, { cwd, env: { PATH: process.env.PATH, HOME: cwd } });
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (text) => (output += text));
    const [code] = await once(child, 'close');
    working.abort();
    await work;
    const { jobs } = service.queue.health();
    await service.close();
    await rm(cwd, { recursive: true });
    expect(code, output.slice(-20_000)).toBe(0);
    expect(jobs.completed).toBeGreaterThan(0); // some tasks ended
  },
  300_000,
);

/** A worker: every job that is queued succeeds. */
async function workAll(service: Awaited<ReturnType<typeof testService>>, signal: AbortSignal) {
  while (!signal.aborted) {
    for (const job of service.queue.take('worker-1', 10)) {
      const { task_id } = job.input as { task_id: string };
      service.report(job.id, { output: await service.finish(task_id, job.id) });
    }
    await service.queue.waitForChange(1000, signal);
  }
}
