/**
 * Loaded before a program with `--import …/fast-clock.mjs?rate=15&since=<milliseconds since 1970>`: from then on its clock runs so many
 * times as fast, and waits of 1 to 5 seconds are as much shorter. Shorter ones stay, or it would only be busier; so do longer ones, which
 * guard against what hangs and must fit a machine that is no faster.
 */
const { searchParams } = new URL(import.meta.url);
const [rate, since] = [Number(searchParams.get('rate')), Number(searchParams.get('since'))];

const { Date: RealDate, setTimeout: realSetTimeout } = globalThis;
const now = () => Math.floor(since + (RealDate.now() - since) * rate);
globalThis.Date = class extends RealDate {
  constructor(...args) {
    super(...(args.length > 0 ? args : [now()]));
  }
  static now = now;
};

const shortened = (callback, ms, ...args) =>
  realSetTimeout(callback, ms >= 1000 && ms <= 5000 ? ms / rate : ms, ...args);
globalThis.setTimeout = Object.defineProperties(shortened, Object.getOwnPropertyDescriptors(realSetTimeout));
