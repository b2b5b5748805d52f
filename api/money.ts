/**
 * Money in integers. Amounts are whole micro-units (millionths) of CURRENCY, which are safe integers in JavaScript. Prices are finer:
 * whole pico-units (millionths of micro-units).
 */
const DECIMALS = 12;
const PRICE = new RegExp(`^(\\d{1,9})(?:\\.(\\d{1,${DECIMALS}}))?$`);

/** Parses a price in currency units, such as 0.00034, exactly; without sign and exponent, at most 12 decimals. @returns undefined: invalid */
export function parsePrice(text: string): bigint | undefined {
  const [, units, decimals = ''] = PRICE.exec(text) ?? [];
  return units === undefined ? undefined : BigInt(units + decimals.padEnd(DECIMALS, '0'));
}

/**
 * @returns micro-units, rounded up
 * @param perSecond pico-units
 * @param time whole milliseconds
 */
export const costOfTime = (perSecond: bigint | number, time: number): number =>
  upToMicro(BigInt(perSecond) * BigInt(time), 1000n);

/** @returns micro-units, rounded up */
export const costOf = (price: bigint): number => upToMicro(price, 1n);

const upToMicro = (pico: bigint, divisor: bigint): number => {
  const one = 1_000_000n * divisor;
  return Number((pico + one - 1n) / one);
};
