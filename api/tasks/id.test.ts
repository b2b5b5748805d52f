import { expect, test } from 'vitest';
import { createTaskIds, firstIdAt, TASK_ID } from './id.ts';

const millisecond = (id: string) => Number.parseInt(id.replaceAll('-', '').slice(0, 12), 16);

test('ids ascend, also within a millisecond and when the clock is set back, and contain created_at', () => {
  let clock = 1_795_551_510_000;
  const next = createTaskIds(() => clock);
  const made = [next()];
  for (const change of [...Array(500).fill(0), 1, 0, -3_600_000, 0, 3_599_999, 2]) {
    clock += change;
    made.push(next());
  }
  const ids = made.map(({ id }) => id);
  expect(ids).toEqual([...new Set(ids)].sort());
  expect(made.filter(({ id, created_at }) => !TASK_ID.test(id) || millisecond(id) !== created_at)).toEqual([]);
  expect(made.at(-1)!.created_at).toBe(clock);
  const other = createTaskIds(() => clock)();
  expect(other.id.slice(14)).not.toBe(made.at(-1)!.id.slice(14)); // nobody guesses an id from its time
});

test('after a clock that was years ahead, ids are of the present again', () => {
  let clock = Date.parse('2036-11-30T12:00:00Z');
  const next = createTaskIds(() => clock);
  next();
  clock = Date.parse('2026-11-30T12:00:00Z');
  expect(next().created_at).toBe(clock);
  expect(next().created_at).toBe(clock);
});

test('firstIdAt is not above any id of its millisecond, and above every earlier id', () => {
  let clock = 1_795_551_510_000;
  const next = createTaskIds(() => clock);
  const first = firstIdAt(clock);
  expect(first).toMatch(TASK_ID);
  for (let i = 0; i < 100; i++) expect(next().id > first).toBe(true);
  clock = 0x0fff_ffff_ffff;
  expect(firstIdAt(clock) > createTaskIds(() => clock - 1)().id).toBe(true);
  expect(firstIdAt(-62_135_596_800_000)).toBe('00000000-0000-7000-8000-000000000000'); // the year 1
});
