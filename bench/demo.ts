/** `npm run bench -- demo`: the whole service on this machine, from a caller's request to the link, and where the time goes. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { databaseUrl } from '../api/config.ts';
import { openStore } from '../api/store/store.ts';
import { createClient } from '../client/index.ts';
import { freePort } from '../infra/run/free-port.ts';
import { startLocal } from '../infra/run/start.ts';
import { numberFlags } from './measure.ts';
import { type Pair, type Report, row } from './report.ts';

const { rounds } = numberFlags({ rounds: 5 });

export async function run(): Promise<Report> {
  const dataDir = await mkdtemp(join(tmpdir(), 'bench-demo-'));
  const env = { PATH: process.env.PATH, DATA_DIR: dataDir, PORT: String(await freePort()) };
  const began = performance.now();
  const service = await startLocal({ env, quiet: true });
  const start = performance.now() - began;

  const store = await openStore(databaseUrl(env), { exclusive: false });
  const client = createClient({ url: service.url });
  const seconds: Record<string, Pair[]> = { 'request to link': [] };
  for (let round = 0; round <= rounds; round++) {
    const began = performance.now();
    const created = await client.img2vid({ prompt: 'a lighthouse at dawn', seed: round });
    let task = created.answer;
    for await (task of created);
    const ms = performance.now() - began;
    if (task.status !== 'succeeded') throw new Error(`the task has ${task.status}: ${task.error?.message}`);
    if (round === 0) continue; // it warms up
    const timings = (await store.get(task.id))!.output!.timings_ms;
    const others = ms - Object.values(timings).reduce((sum, ms) => sum + ms, 0);
    for (const [stage, spent] of Object.entries({ 'request to link': ms, ...timings, 'all else': others }))
      seconds[stage] = [...(seconds[stage] ?? []), { ours: spent / 1000 }];
  }
  await store.close();
  await service.stop();
  await rm(dataDir, { recursive: true, force: true });

  const { 'request to link': whole, ...stages } = seconds;
  return {
    how: `The demo: a prompt of default size, ${rounds} rounds after one that warms up.`,
    rows: [
      row('demo: start', 's', [{ ours: start / 1000 }]),
      row('demo: request to link', 's', whole!, { aim: { of: 'ours', most: 3 } }),
      ...Object.entries(stages).map(([stage, spent]) => row(`of it: ${stage}`, 's', spent)),
    ],
  };
}
