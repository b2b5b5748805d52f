import type { Input } from '../../handler/parameters.ts';
import { cost, type Prices } from '../money.ts';

/** Roughly how long a slow GPU samples and decodes; whole milliseconds. */
export function gpuTime(input: Input): number {
  const size = (input.H * input.W * input.T) / (576 * 1024 * 25);
  return Math.round(Math.max(10, input.num_cols * size * (30 + 4 * input.steps)) * 1000);
}

/** What a task will roughly cost; `amount` in micro-units. */
export function costEstimate(input: Input, prices: Prices): { amount: number; currency: string; gpu_seconds: number } {
  const time = gpuTime(input);
  const stills = input.prompt === undefined ? 0 : 1;
  return { amount: cost(prices, { gpuTime: time, stills }), currency: prices.currency, gpu_seconds: time / 1000 };
}
