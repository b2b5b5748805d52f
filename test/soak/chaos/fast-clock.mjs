/**
 * Makes a program's clock run fast: `--import …/fast-clock.mjs?rate=15&since=<milliseconds since 1970>`. Waits of a second or more become
 * as much shorter. Shorter ones stay, because the program would only be busier. So do two timeouts that guard against hanging (connections to
 * Postgres, requests to RunPod), because the machine is no faster. Now and then the clock is ahead for a while.
 */
import { aheadAt } from './clock-jumps.mjs';

const GUARDS = [10_000, 30_000];

const { searchParams } = new URL(import.meta.url);
const [rate, since] = [Number(searchParams.get('rate')), Number(searchParams.get('since'))];

const { Date: RealDate, setTimeout: realSetTimeout } = globalThis;
const now = () => {
  const ms = Math.floor(since + (RealDate.now() - since) * rate);
  return ms + aheadAt(ms);
};
globalThis.Date = class extends RealDate {
  constructor(...args) {
    super(...(args.length > 0 ? args : [now()]));
  }
  static now = now;
};

const shortened = (callback, ms, ...args) =>
  realSetTimeout(callback, ms >= 1000 && !GUARDS.includes(ms) ? ms / rate : ms, ...args);
globalThis.setTimeout = Object.defineProperties(shortened, Object.getOwnPropertyDescriptors(realSetTimeout));
