import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { HOUR } from '../../core/time.ts';
import { PriorityQueue, realClock, steppedClock } from './clock.ts';

test('a stepped clock wakes each sleeper at its own time, in order, also those that fall asleep during the step', async () => {
  const clock = steppedClock(100);
  const woken: [string, number][] = [];
  async function sleeper(name: string, ...naps: number[]) {
    for (const ms of naps) {
      await clock.sleep(ms);
      woken.push([name, clock.now()]);
    }
  }
  void sleeper('late', 30);
  void sleeper('often', 10, 10, 10, 10);
  void sleeper('never', 41);
  await clock.step(40);
  expect(woken).toEqual([
    ['often', 110],
    ['often', 120],
    ['late', 130],
    ['often', 130],
    ['often', 140],
  ]);
  expect(clock.now()).toBe(140);
  expect(clock.sleeping()).toBe(1);
});

test.each([
  ['real', realClock()],
  ['stepped', steppedClock()],
])('a signal ends a sleep at once, and later ones before they begin: %s', async (_, clock) => {
  const controller = new AbortController();
  const sleep = clock.sleep(HOUR, controller.signal);
  controller.abort();
  await sleep;
  await clock.sleep(HOUR, controller.signal);
});

test('a real sleep takes its time', async () => {
  const clock = realClock();
  const start = clock.now();
  await clock.sleep(30);
  expect(clock.now() - start).toBeGreaterThanOrEqual(29);
  await Promise.race([clock.sleep(2 ** 40).then(() => Promise.reject(new Error('woken'))), clock.sleep(20)]);
});

test('a real sleep keeps no process alive', async () => {
  const program = `import { realClock } from './infra/simulators/clock.ts'; void realClock().sleep(${HOUR}); console.log('asleep')`;
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--import', 'tsx', '--input-type=module', '-e', program],
    { timeout: 15_000 },
  );
  expect(stdout).toBe('asleep\n');
});

test('a priority queue gives the least first, equals in the order they were added', () => {
  const queue = new PriorityQueue<number>();
  const priorities = Array.from({ length: 500 }, (_, n) => (n * 7919) % 101);
  const given: number[] = [];
  priorities.forEach((priority, n) => {
    queue.add(priority, n);
    if (n % 3 === 2) {
      const least = queue.nextPriority;
      given.push(queue.shift()!);
      expect(priorities[given.at(-1)!]).toBe(least);
    }
  });
  const rest = priorities.map((_, n) => n).filter((n) => !given.includes(n));
  rest.sort((a, b) => priorities[a]! - priorities[b]! || a - b);
  expect(rest.map(() => queue.shift())).toEqual(rest);
  expect([queue.nextPriority, queue.shift()]).toEqual([Infinity, undefined]);
});
