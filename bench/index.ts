/**
 * `npm run bench`: all benchmarks, each in a process of its own, into one Markdown table of ratios against peers in the same run;
 * `--json FILE` writes it as JSON too. `npm run bench -- NAME` runs one, with its own flags.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { isMet, machine, type Row, say, table } from './report.ts';

const BENCHMARKS: Record<string, () => Promise<unknown>> = {
  svd: () => import('./svd.ts'),
  memory: () => import('./memory.ts'),
  media: () => import('./media.ts'),
  worker: () => import('./worker.ts'),
  api: () => import('./api.ts'),
  demo: () => import('./demo.ts'),
  idle: () => import('./idle.ts'),
  growth: () => import('./growth.ts'),
};

const name = process.argv[2];
if (name === undefined || name.startsWith('--')) await all();
else if (BENCHMARKS[name]) await BENCHMARKS[name]();
else {
  say(`npm run bench [-- NAME], with one of: ${Object.keys(BENCHMARKS).join(', ')}`);
  process.exit(1);
}

async function all() {
  const { values: flags } = parseArgs({ args: process.argv.slice(2), options: { json: { type: 'string' } } });
  const results: { name: string; how: string; rows: Row[] }[] = [];
  const failed: string[] = [];
  for (const name of Object.keys(BENCHMARKS)) {
    say(`${name} …`);
    const command = ['--import', 'tsx', fileURLToPath(import.meta.url), name, '--json'];
    const child = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'inherit'] });
    const [said, [code]] = await Promise.all([text(child.stdout), once(child, 'exit')]);
    if (code === 0) results.push({ name, ...JSON.parse(said) });
    else failed.push(name);
  }
  const rows = results.flatMap(({ rows }) => rows);
  const [met, missed] = [true, false].map((wanted) => rows.filter((row) => isMet(row) === wanted).length);
  console.log(`${machine.cpu}, ${machine.cores} cores, ${machine.memory_gib} GiB, Node ${machine.node}\n`);
  for (const { how } of results) console.log(`- ${how}`);
  console.log(`\n${table(rows)}\n\n${met} aims met, ${missed} missed`);
  if (flags.json) writeFileSync(flags.json, `${JSON.stringify({ machine, results }, null, 1)}\n`);
  if (failed.length > 0) {
    say(`these benchmarks failed: ${failed.join(', ')}`);
    process.exitCode = 1;
  }
}
