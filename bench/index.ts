/**
 * `npm run bench`: runs all benchmarks, each in its own process, and prints one Markdown table of ratios against peers in the same run.
 * `--json FILE` also writes it as JSON. `npm run bench -- NAME` runs one benchmark, with that benchmark's flags.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { userPath } from '../client/files.ts';
import { isMet, machine, machineLine, type Report, table } from './report.ts';

const BENCHMARKS = ['svd', 'fast', 'memory', 'media', 'worker', 'api', 'demo', 'idle'];

const name = process.argv[2];
if (name === undefined || name.startsWith('--')) await runAll();
else if (BENCHMARKS.includes(name)) await runOne(name);
else {
  console.error(`npm run bench [-- NAME], with one of: ${BENCHMARKS.join(', ')}`);
  process.exit(1);
}

async function runOne(name: string): Promise<never> {
  const { run }: { run(): Promise<Report> } = await import(`./${name}.ts`);
  const { how, rows } = await run();
  if (process.argv.includes('--json')) console.log(JSON.stringify({ how, rows }));
  else console.log(`${how}\n${machineLine}\n\n${table(rows)}`);
  process.exit(0);
}

async function runAll(): Promise<void> {
  const { values: flags } = parseArgs({ args: process.argv.slice(2), options: { json: { type: 'string' } } });
  const results: (Report & { name: string })[] = [];
  const failed: string[] = [];
  for (const name of BENCHMARKS) {
    console.error(`${name} …`);
    const command = ['--import', 'tsx', fileURLToPath(import.meta.url), name, '--json'];
    const child = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'inherit'] });
    const [output, [code]] = await Promise.all([text(child.stdout), once(child, 'exit')]);
    if (code === 0) results.push({ name, ...JSON.parse(output) });
    else failed.push(name);
  }
  const rows = results.flatMap(({ rows }) => rows);
  const [met, missed] = [true, false].map((wanted) => rows.filter((row) => isMet(row) === wanted).length);
  console.log(`${machineLine}\n`);
  for (const { how } of results) console.log(`- ${how}`);
  console.log(`\n${table(rows)}\n\n${met} aims met, ${missed} missed`);
  if (flags.json)
    writeFileSync(userPath(flags.json, process.env), `${JSON.stringify({ machine, results }, null, 1)}\n`);
  if (failed.length > 0) {
    console.error(`these benchmarks failed: ${failed.join(', ')}`);
    process.exitCode = 1;
  }
}
