/** `npm run bench -- demo`: the whole service on this machine, from a caller's request to the link, and where the time goes. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { databaseUrl } from '../api/config.ts';
import { openStore } from '../api/store/store.ts';
import { createClient } from '../client/index.ts';
import { freePort } from '../infra/run/free-port.ts';
import { startLocal } from '../infra/run/start.ts';
import { readFlags } from './flags.ts';
import { row, tell, timed } from './report.ts';

const flags = readFlags({ rounds: { type: 'string', default: '5' } });

const dataDir = await mkdtemp(join(tmpdir(), 'bench-demo-'));
const env = { PATH: process.env.PATH, DATA_DIR: dataDir, PORT: String(await freePort()) };
let service: Awaited<ReturnType<typeof startLocal>>;
const start = await timed(async () => {
  service = await startLocal({ env, quiet: true });
});

const store = await openStore(databaseUrl(env), { exclusive: false });
const stages: Record<string, number[]> = {};
const whole: number[] = [];
const client = createClient({ url: service!.url });
for (let round = 0; round <= Number(flags.rounds); round++) {
  let id = '';
  const ms = await timed(async () => {
    const created = await client.img2vid({ prompt: 'a lighthouse at dawn', seed: round });
    let task = created.answer;
    for await (task of created);
    if (task.status !== 'succeeded') throw new Error(`the task has ${task.status}: ${task.error?.message}`);
    id = task.id;
  });
  if (round === 0) continue; // it warms up
  whole.push(ms);
  const timings = (await store.get(id))!.output!.timings_ms;
  const within = Object.values(timings).reduce((sum, ms) => sum + ms, 0);
  for (const [stage, spent] of Object.entries({ ...timings, 'all else': ms - within }))
    stages[stage] = [...(stages[stage] ?? []), spent / 1000];
}
await store.close();
await service!.stop();
await rm(dataDir, { recursive: true, force: true });

tell(`The demo: a prompt of default size, ${flags.rounds} rounds after one that warms up.`, [
  row('demo: start', 's', [{ ours: start / 1000 }]),
  row('demo: request to link', 's', each(whole.map((ms) => ms / 1000)), { aim: { of: 'ours', most: 3 } }),
  ...Object.entries(stages).map(([stage, spent]) => row(`of it: ${stage}`, 's', each(spent))),
]);
process.exit(0);

function each(values: number[]) {
  return values.map((ours) => ({ ours }));
}
