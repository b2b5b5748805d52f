/** What a task will take, and cost: from its parameters, and from what its model's latest tasks took. */
import type { Logger } from 'pino';
import type { Input } from '../../core/parameters.ts';
import type { ModelName } from '../../core/presets.ts';
import type { CostEstimate } from '../../core/responses.ts';
import { MINUTE } from '../../core/time.ts';
import { costOf, costOfTime, type Prices } from '../money.ts';
import type { Store } from '../store/store.ts';
import type { Quote } from '../store/task.ts';

/** Results that are looked at, and fewer than this many say nothing yet. */
const LATEST = 100;
const ENOUGH = 10;
/** Of the latest so many took at most as long as is reckoned with, 0–1; and somewhat more is reserved than that. */
const SHARE = 0.9;
const MARGIN = 1.25;

/** Roughly how long a slow GPU samples and decodes, by the parameters alone; whole milliseconds. */
export function estimateGpuTime(input: Input): number {
  const size = (input.H * input.W * input.T) / (576 * 1024 * 25);
  return Math.round(Math.max(10, input.num_cols * size * (30 + 4 * input.steps)) * 1000);
}

export interface Estimate {
  /** milliseconds */
  gpuTime: number;
  /** the same by the parameters alone */
  expectedGpuTime: number;
  quote: Quote;
}

/** The most that a task with this quote costs; micro-units. */
export const maxCost = ({ gpu, still }: Quote) => gpu + still;

/** As callers see it: the amount in micro-units. */
export const presentEstimate = ({ gpuTime, quote }: Estimate): CostEstimate => ({
  amount: maxCost(quote),
  currency: quote.currency,
  gpu_seconds: gpuTime / 1000,
});

interface EstimatorOptions {
  store: Pick<Store, 'listGpuTimes'>;
  log: Logger;
  model: ModelName;
  prices: Prices;
  now: () => number;
}

export function createEstimator({ store, log, model, prices, now }: EstimatorOptions) {
  let factor: Promise<number> = Promise.resolve(1);
  let until = 0;

  /** How many times the expected time is reckoned with; as it was up to a minute ago, or longer while the store is away. */
  function history(): Promise<number> {
    if (now() < until) return factor;
    until = now() + MINUTE;
    const known = factor;
    factor = store.listGpuTimes(model, LATEST).then(factorOf, (error) => {
      log.warn({ error }, 'how long tasks took could not be read; what was known is used');
      return known;
    });
    return factor;
  }

  return async (input: Input): Promise<Estimate> => {
    const expectedGpuTime = estimateGpuTime(input);
    const time = Math.ceil(expectedGpuTime * (await history()));
    const quote = {
      currency: prices.currency,
      gpu: costOfTime(prices.perGpuSecond, time),
      per_gpu_second: Number(prices.perGpuSecond),
      still: input.prompt === undefined ? 0 : costOf(prices.perStill),
    };
    return { gpuTime: time, expectedGpuTime, quote };
  };
}

function factorOf(results: { took: number; expected: number }[]): number {
  if (results.length < ENOUGH) return 1;
  const ratios = results.map(({ took, expected }) => took / expected).sort((a, b) => a - b);
  return MARGIN * ratios[Math.ceil(SHARE * ratios.length) - 1]!;
}
