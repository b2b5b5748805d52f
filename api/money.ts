/**
 * Money, in integers. Amounts are whole micro-units (millionths) of CURRENCY, safe as JavaScript's numbers; prices may be finer, and are
 * whole pico-units (millionths of those).
 */
export interface Prices {
  /** three capital letters, as ISO 4217 has them */
  currency: string;
  perGpuSecond: bigint;
  /** of a picture that a bridge makes from a prompt */
  perStill: bigint;
}

const DECIMALS = 12;
const PRICE = new RegExp(`^(\\d{1,9})(?:\\.(\\d{1,${DECIMALS}}))?$`);

/** A price in currency units, such as 0.00034, exactly; undefined if it is none: no sign, no exponent, at most 12 decimals. */
export function parsePrice(text: string): bigint | undefined {
  const [, units, decimals = ''] = PRICE.exec(text) ?? [];
  return units === undefined ? undefined : BigInt(units + decimals.padEnd(DECIMALS, '0'));
}

/**
 * What so much time costs, in micro-units, rounded up.
 * @param perSecond pico-units
 * @param time whole milliseconds
 */
export const costOfTime = (perSecond: bigint | number, time: number): number =>
  upToMicro(BigInt(perSecond) * BigInt(time), 1000n);

/** A price in micro-units, rounded up. */
export const costOf = (price: bigint): number => upToMicro(price, 1n);

const upToMicro = (pico: bigint, divisor: bigint): number => {
  const one = 1_000_000n * divisor;
  return Number((pico + one - 1n) / one);
};
