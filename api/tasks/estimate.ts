/** Estimates the GPU time and cost of a task from its parameters and the latest tasks of its model. */
import type { Input } from '../../core/parameters.ts';
import type { CostEstimate } from '../../core/responses.ts';
import { MINUTE } from '../../core/time.ts';
import type { Dependencies } from '../dependencies.ts';
import { costOf, costOfTime } from '../money.ts';
import type { Quote } from '../store/task.ts';

/** Latest results that count; below MIN_RESULTS there is no correction. */
const MAX_RESULTS = 100;
const MIN_RESULTS = 10;
/** The correction is the 90th percentile of measured to expected time, plus a margin of 25 %. */
const PERCENTILE = 0.9;
const MARGIN = 1.25;

/** Rough time that a slow GPU takes to sample and decode, by the parameters alone; whole milliseconds. */
export function estimateGpuTime(input: Input): number {
  const size = (input.H * input.W * input.T) / (576 * 1024 * 25);
  return Math.round(Math.max(10, input.num_cols * size * (30 + 4 * input.steps)) * 1000);
}

export interface Estimate {
  /** milliseconds */
  gpuTime: number;
  /** by the parameters alone; milliseconds */
  expectedGpuTime: number;
  quote: Quote;
}

/** Highest cost of a task with this quote; micro-units. */
export const maxCost = ({ gpu, still }: Quote) => gpu + still;

/** An estimate as clients see it; the amount is in micro-units. */
export const presentEstimate = ({ gpuTime, quote }: Estimate): CostEstimate => ({
  amount: maxCost(quote),
  currency: quote.currency,
  gpu_seconds: gpuTime / 1000,
});

export function createEstimator({ config, store, log, uptime }: Dependencies) {
  const { model, prices } = config;
  let correction: Promise<number> = Promise.resolve(1);
  let until = 0;

  /** Measured to expected time, cached for a minute; while the store can't be reached, the last one. */
  function readCorrection(): Promise<number> {
    if (uptime() < until) return correction;
    until = uptime() + MINUTE;
    const known = correction;
    correction = store.listGpuTimes(model, MAX_RESULTS).then(correctionOf, (error) => {
      log.warn({ error }, 'GPU times could not be read; the last correction is used');
      return known;
    });
    return correction;
  }

  return async (input: Input): Promise<Estimate> => {
    const expectedGpuTime = estimateGpuTime(input);
    const time = Math.ceil(expectedGpuTime * (await readCorrection()));
    const quote = {
      currency: prices.currency,
      gpu: costOfTime(prices.perGpuSecond, time),
      per_gpu_second: Number(prices.perGpuSecond),
      still: input.prompt === undefined ? 0 : costOf(prices.perStill),
    };
    return { gpuTime: time, expectedGpuTime, quote };
  };
}

function correctionOf(results: { took: number; expected: number }[]): number {
  if (results.length < MIN_RESULTS) return 1;
  const ratios = results.map(({ took, expected }) => took / expected).sort((a, b) => a - b);
  return MARGIN * ratios[Math.ceil(PERCENTILE * ratios.length) - 1]!;
}
