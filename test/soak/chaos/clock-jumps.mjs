/** When the clocks of the API's processes are set ahead for a while, and back again. All times are milliseconds of the fast clock. */
const PERIOD = 120_000;
const LENGTH = 10_000;
const AHEAD = 3_600_000;

/** How far the clock is ahead at a time. @param {number} ms */
export const aheadAt = (ms) => (ms % PERIOD < LENGTH ? AHEAD : 0);

/** Whether a time may come from a clock that was ahead. @param {number} ms */
export const mayBeAhead = (ms) => aheadAt(ms - AHEAD) > 0;

/** Whether the clock was ahead at some time of a period. @param {number} from @param {number} until */
export const wasAhead = (from, until) => Math.floor(until / PERIOD) * PERIOD + LENGTH > from;
