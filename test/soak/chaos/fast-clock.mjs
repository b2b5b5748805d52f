/**
 * Loaded before a program with `--import …/fast-clock.mjs?rate=15&since=<milliseconds since 1970>`: from then on its clock runs so many
 * times as fast, and its waits of a second and more are as much shorter. Those below stay, or it would only be busier. So do two
 * that guard against what hangs, for the machine is no faster: time-outs of connections to Postgres and of requests to RunPod.
 */
const GUARDS = [10_000, 30_000];

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
  realSetTimeout(callback, ms >= 1000 && !GUARDS.includes(ms) ? ms / rate : ms, ...args);
globalThis.setTimeout = Object.defineProperties(shortened, Object.getOwnPropertyDescriptors(realSetTimeout));
