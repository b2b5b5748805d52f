/** How the benchmarks read their flags and time a piece of work next to its peer. */
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type { Pair } from './report.ts';

/**
 * Reads a benchmark's flags, all of them positive numbers.
 * @param defaults every flag there is, with its default
 * @throws Error that names a flag which does not exist, or whose value is not a positive number
 * @example const { rounds } = numberFlags({ rounds: 3 }); // npm run bench -- media --rounds 5
 */
export function numberFlags<Name extends string>(defaults: Record<Name, number>): Record<Name, number> {
  const names = Object.keys(defaults) as Name[];
  const { values } = parseArgs({
    args: process.argv.slice(3),
    options: { ...Object.fromEntries(names.map((name) => [name, { type: 'string' }])), json: { type: 'boolean' } },
  });
  const read = (name: Name) => {
    const value = Number((values as Record<string, unknown>)[name] ?? defaults[name]);
    if (!(value > 0)) throw new Error(`--${name} must be a number above 0`);
    return [name, value];
  };
  return Object.fromEntries(names.map(read)) as Record<Name, number>;
}

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
    const pair: Pair = { ours: Number.NaN };
    const measureOurs = async () => {
      await settle();
      pair.ours = await ours();
    };
    const measureTheirs = async () => {
      await settle();
      if (theirs) pair.theirs = await theirs();
    };
    for (const measure of round % 2 ? [measureOurs, measureTheirs] : [measureTheirs, measureOurs]) await measure();
    if (round > 0) pairs.push(pair);
  }
  return pairs;
}
