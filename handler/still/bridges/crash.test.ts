/** Kills a real process with SIGKILL at each point of an imagine; then another process takes over. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { diskBucket } from '../../../core/bucket/disk.ts';
import { JobError } from '../../../core/job.ts';
import { type CrashingWorker, type CrashPoint, makeStill } from '../../../test/support/crashing-worker.ts';
import { programArgs } from '../../../test/support/programs.ts';
import { type Call, COLOURS, colourOf, KEY, startBridge, TASK } from '../../../test/support/test-bridge.ts';
import { stillKey } from '../still.ts';
import type { BridgeName } from './bridge.ts';

/** By an object that is written, or by the count of the bridge's calls of one sort. */
type Point = CrashPoint | { call: Call; count: number };
type End = 'the still' | 'lost';

const points: [what: string, Point, paid: number, end: End, bridges?: Partial<Record<BridgeName, End>>][] = [
  [
    'before the intent',
    { when: 'before', call: 'create', key: 'imagine.json' },
    1,
    'the still',
    { openai: 'the still' },
  ],
  [
    'between the intent and the POST',
    { when: 'after', call: 'create', key: 'imagine.json' },
    0, // but the second worker can't know that
    'lost',
    { 'mj-proxy': 'lost', openai: 'lost' },
  ],
  [
    'when the bridge has accepted the prompt, before it answers',
    { call: 'imagine', count: 1 },
    1,
    'lost',
    { 'mj-proxy': 'the still', openai: 'lost' },
  ],
  [
    'between the bridge’s answer and the saving of its id',
    { when: 'before', call: 'put', key: 'imagine.json', body: '"id"' },
    1,
    'lost',
    { 'mj-proxy': 'the still' },
  ],
  [
    'when its id is saved',
    { when: 'after', call: 'put', key: 'imagine.json', body: '"id"' },
    1,
    'the still',
    { openai: 'the still' },
  ],
  ['while it waits', { call: 'status', count: 3 }, 1, 'the still'],
  ['while it fetches the pictures', { call: 'picture', count: 2 }, 1, 'the still', { openai: 'the still' }],
  [
    'between the four pictures',
    { when: 'before', call: 'put', key: 'imagine-3.png' },
    1,
    'the still',
    { openai: 'the still' },
  ],
  ['before still.png', { when: 'before', call: 'put', key: 'still.png' }, 1, 'the still', { openai: 'the still' }],
];

/** Of a bridge that answers with the pictures: it has no id and no status. */
const ANSWER = { call: 'put', key: 'imagine-answer.json' } as const;
const answers: [what: string, Point, paid: number, end: End][] = [
  ['between the bridge’s answer and the saving of it', { when: 'before', ...ANSWER }, 1, 'lost'],
  ['when the answer is saved', { when: 'after', ...ANSWER }, 1, 'the still'],
  [
    'between the first picture and the deletion of the answer',
    { when: 'after', call: 'put', key: 'imagine-1.png' },
    1,
    'the still',
  ],
  ['before the second picture', { when: 'before', call: 'put', key: 'imagine-2.png' }, 1, 'the still'],
  ['after the last picture', { when: 'after', call: 'put', key: 'imagine-4.png' }, 1, 'the still'],
];

const cases = [
  ...points.flatMap(([what, point, paid, end, others = {}]) =>
    Object.entries({ tnl: end, ...others }).map(([name, end]) => [what, name as BridgeName, point, paid, end] as const),
  ),
  ...answers.map(([what, point, paid, end]) => [what, 'openai', point, paid, end] as const),
];

test.concurrent.each(cases)(
  'a second worker pays nothing more after the first was killed %s (%s)',
  async (_, name, point, paid, end) => {
    const folder = await mkdtemp(join(tmpdir(), 'crash-'));
    let child: ChildProcess;
    let clock = 0;
    const bridge = await startBridge(name, {
      duration: 100,
      now: () => clock,
      async intervene(call, count, _c, answer) {
        if (call === 'status') clock += 25; // done at the fourth request
        if ('count' in point && point.call === call && point.count === count) {
          await answer();
          child.kill('SIGKILL');
          await once(child, 'exit');
        }
        return undefined;
      },
    });
    const worker: CrashingWorker = {
      ...{ folder, taskId: TASK, bridge: name, apiKey: KEY, baseUrl: bridge.baseUrl },
      crash: 'key' in point ? point : undefined,
    };
    const args = [...programArgs('test/support/crashing-worker.ts'), JSON.stringify(worker)];
    child = spawn(process.execPath, args, { stdio: 'inherit' });
    expect(await once(child, 'exit')).toEqual([null, 'SIGKILL']);
    const bucket = await diskBucket(folder, { publicUrl: '' });
    expect(await bucket.has(stillKey(TASK))).toBe(false);

    const now = () => Date.now() + 800_000; // no worker waits any more
    const png = await makeStill({ ...worker, crash: undefined }, now).catch((error) => error);
    if (end === 'lost') expect(png).toMatchObject({ code: 'lost', data: { retryable: true } });
    else expect(await colourOf(png)).toBe(COLOURS[1]);
    expect(png instanceof JobError).toBe(end === 'lost');
    expect(bridge.paid()).toBe(paid);
    await bridge.close();
    await rm(folder, { recursive: true });
  },
);
