/** How the benchmarks read their flags and time a piece of work next to its peer. */
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
