/** How the benchmarks read their flags, time a piece of work next to its peer, and read a process's memory. */
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { readFlags } from '../test/support/flags.ts';
import type { Pair } from './report.ts';

/** Reads the flags of a benchmark, all of them numbers; `--json` belongs to index.ts. See readFlags. */
export const numberFlags = <Name extends string>(defaults: Record<Name, number>): Record<Name, number> =>
  readFlags(
    process.argv.slice(3).filter((arg) => arg !== '--json'),
    defaults,
  );

/** Milliseconds that the work takes. */
export async function timed(work: () => unknown): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

/** Waits until idle threads of the previous measurement no longer spin: they would take the processor from the next one. */
export const settle = () => delay(200);

/**
 * Measures ours and the peer, alternating which goes first, after one round that only warms up.
 * @param theirs undefined where there is no peer
 */
export async function comparePairs(
  rounds: number,
  ours: () => Promise<number>,
  theirs?: () => Promise<number>,
): Promise<Pair[]> {
  const pairs: Pair[] = [];
  for (let round = 0; round <= rounds; round++) {
    const pair: Partial<Pair> = {};
    for (const side of round % 2 ? (['ours', 'theirs'] as const) : (['theirs', 'ours'] as const)) {
      const work = { ours, theirs }[side];
      await settle();
      if (work) pair[side] = await work();
    }
    if (round > 0) pairs.push(pair as Pair);
  }
  return pairs;
}

/** Bytes that the process takes, from /proc (Linux); 0 if it has ended. */
export function memoryOf(pid: number, field: 'VmRSS' | 'VmHWM' | 'RssAnon'): number {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    return Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(status)?.[1] ?? 0) * 1024;
  } catch {
    return 0;
  }
}
