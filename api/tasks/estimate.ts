/** Estimates the GPU time and cost of a task from its parameters and the latest tasks of its model. */
import { type Discretization, noiseLevels } from '../../core/discretization.ts';
import { maxPixels } from '../../core/frame-size.ts';
import { type Guider, guidanceInterval, guidanceScales, isInInterval } from '../../core/guider.ts';
import type { Input } from '../../core/parameters.ts';
import type { ModelName } from '../../core/presets.ts';
import type { CostEstimate } from '../../core/responses.ts';
import type { Sampler } from '../../core/sampler-options.ts';
import { MINUTE, SECOND } from '../../core/time.ts';
import type { Dependencies } from '../dependencies.ts';
import { costOf, costOfTime } from '../money.ts';
import type { GpuTime } from '../store/key.ts';
import type { Quote } from '../store/task.ts';

/** Latest results of each key that count; below MIN_RESULTS of all keys there is no correction. */
const MAX_RESULTS_PER_KEY = 20;
const MIN_RESULTS = 10;
/** A key's ratio is the 90th percentile of measured to expected time, weighted by the expected time. */
const PERCENTILE = 0.9;
const MARGIN = 1.25;
/** Bounds of the correction. A GPU may be that much faster or slower than expected. */
const MAX_FACTOR = 8;

/**
 * Work of a model on a slow machine, in seconds: for 25 frames of 1024×576, once and for each evaluation of both guidance branches, and
 * the least that is estimated. `attention` is the share of an evaluation that grows with the square of the frame's pixels, not with the
 * pixels. The camera runs on processors.
 */
const SVD = { once: 30, evaluation: 4, attention: 0.25, least: 10 };
const WORK = {
  camera: { once: 1, evaluation: 0.0005, attention: 0, least: 1 },
  svd: SVD,
  svd_xt: SVD,
  svd_xt_1_1: SVD,
  animatelcm_svd_xt: SVD,
};
/**
 * Time of a clip divided by that on a slow machine, before there is a result. The camera's was measured on two cores. SVD's depends on
 * the GPU.
 */
const TYPICAL_RATIO: Partial<Record<ModelName, number>> = { camera: 0.6 };
/** These evaluate the model twice a step. */
const SECOND_ORDER: Input['sampler'][] = ['HeunEDMSampler', 'DPMPP2SAncestralSampler'];

/** Time that sampling and decoding take on a slow machine, by the parameters alone; whole milliseconds. */
export function estimateGpuTime(model: ModelName, input: Input): number {
  const { once, evaluation, attention } = WORK[model];
  const frame = maxPixels(input, model) / (576 * 1024);
  const size = frame * (input.T / 25);
  const growth = 1 + attention * Math.max(0, frame - 1);
  return Math.round(input.num_cols * size * (once + evaluation * countEvaluations(input) * growth) * SECOND);
}

/** The part of an evaluation that runs with cached features, by cache_depth: counted operations of svd_xt. */
const CACHED_SHARE = [1, 0.085, 0.247, 0.415, 0.489, 0.59];

/** What the number of evaluations depends on. */
type Sampled = Pick<Input, 'T' | 'steps'> &
  Sampler &
  Discretization &
  Guider & { cache_interval?: number | undefined; cache_depth?: number | undefined };

/** The most evaluations of both guidance branches. One branch alone, as without guidance, counts half. */
export function countEvaluations(input: Sampled): number {
  const { cache_interval = 1, cache_depth = 0 } = input;
  const isGuided = guidanceScales(input.T, input).some((scale) => scale !== 1);
  const interval = guidanceInterval(input);
  const isSecondOrder = SECOND_ORDER.includes(input.sampler);
  const churn = 's_churn' in input && input.s_churn > 0 ? Math.SQRT2 : 1; // the most that churn raises a sigma
  const isLimited = interval.guidance_sigma_min !== undefined || interval.guidance_sigma_max !== undefined;
  const sigmas = isGuided && isLimited ? noiseLevels(input.steps, input) : undefined; // they take most of the time
  const share = CACHED_SHARE[cache_depth]!;
  let unconditionalCycle = -1; // the last one in which the unconditional branch ran
  let count = 0;
  for (let step = 0; step < input.steps; step++) {
    const cycle = Math.floor(step / cache_interval);
    const isWhole = step % cache_interval === 0;
    let branches = isWhole ? 1 : share;
    const lowest = sigmas?.[isSecondOrder ? step + 1 : step];
    if (isGuided && (!sigmas || isInInterval(churn * sigmas[step]!, interval, lowest))) {
      branches += isWhole || unconditionalCycle !== cycle ? 1 : share; // a branch without features runs whole
      unconditionalCycle = cycle;
    }
    count += ((isSecondOrder ? 2 : 1) * branches) / 2;
  }
  return count;
}

export interface Estimate {
  /** highest; milliseconds */
  gpuTime: number;
  /** as the latest results took; milliseconds; undefined: nothing is known */
  typicalGpuTime: number | undefined;
  /** by the parameters alone; milliseconds; null: too short to say anything about other tasks */
  expectedGpuTime: number | null;
  quote: Quote;
}

/** Highest cost of a task with this quote; micro-units. */
export const maxCost = ({ gpu, still }: Quote) => gpu + still;

/** An estimate as clients see it; the amount is in micro-units. */
export const presentEstimate = ({ gpuTime, typicalGpuTime, quote }: Estimate): CostEstimate => ({
  amount: maxCost(quote),
  currency: quote.currency,
  gpu_seconds: gpuTime / SECOND,
  ...(typicalGpuTime !== undefined && { expected_seconds: typicalGpuTime / SECOND }),
});

export function createEstimator({ config, store, log, uptime }: Dependencies) {
  const { model, prices } = config;
  let ratios: Promise<Ratios> = Promise.resolve(ratiosOf([], model));
  let until = 0;

  /** Measured to expected time, cached for a minute; while the store can't be reached, the last one. */
  function readRatios(): Promise<Ratios> {
    if (uptime() < until) return ratios;
    until = uptime() + MINUTE;
    const known = ratios;
    ratios = store.listGpuTimes(model, MAX_RESULTS_PER_KEY).then(
      (results) => ratiosOf(results, model),
      (error) => {
        log.warn({ error }, 'GPU times could not be read; the last ones are used');
        return known;
      },
    );
    return ratios;
  }

  return async (input: Input): Promise<Estimate> => {
    const expected = estimateGpuTime(model, input);
    const least = WORK[model].least * SECOND;
    const { highest, typical } = await readRatios();
    const time = Math.max(least, Math.ceil(expected * highest));
    const typicalGpuTime = typical === undefined ? undefined : Math.min(time, Math.ceil(expected * typical));
    const quote = {
      currency: prices.currency,
      gpu: costOfTime(prices.perGpuSecond, time),
      per_gpu_second: Number(prices.perGpuSecond),
      still: input.prompt === undefined ? 0 : costOf(prices.perStill),
    };
    return { gpuTime: time, typicalGpuTime, expectedGpuTime: expected > least ? expected : null, quote };
  };
}

/** Measured to expected time. */
interface Ratios {
  /** rarely exceeded */
  highest: number;
  /** the median; undefined: nothing is known */
  typical: number | undefined;
}

function ratiosOf(results: GpuTime[], model: ModelName): Ratios {
  const sorted = results.map(({ took, expected }) => took / expected).sort((a, b) => a - b);
  return { highest: correctionOf(results), typical: sorted[Math.floor(sorted.length / 2)] ?? TYPICAL_RATIO[model] };
}

/** Each key counts once: the correction is the median of the keys' ratios, of two in the middle the higher one. */
function correctionOf(results: GpuTime[]): number {
  if (results.length < MIN_RESULTS) return 1;
  const owners = [...new Set(results.map(({ owner }) => owner))];
  const ratios = owners.map((owner) => ratioOf(results.filter((result) => result.owner === owner)));
  const median = ratios.sort((a, b) => a - b)[Math.floor(ratios.length / 2)]!;
  return Math.min(MAX_FACTOR, Math.max(1 / MAX_FACTOR, MARGIN * median));
}

/** The ratio of measured to expected time that PERCENTILE of the expected time does not exceed. */
function ratioOf(results: GpuTime[]): number {
  const sorted = results.sort((a, b) => a.took / a.expected - b.took / b.expected);
  let left = PERCENTILE * results.reduce((sum, { expected }) => sum + expected, 0);
  const highest = sorted.find(({ expected }) => {
    left -= expected;
    return left <= 0;
  })!;
  return highest.took / highest.expected;
}
