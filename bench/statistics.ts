export const median = (values: number[]) => quantile(values, 0.5);

/** The value that a share `p` of all lies below, 0–1; between two neighbours, in proportion. */
export function quantile(values: number[], p: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const place = p * (sorted.length - 1);
  const [below, above] = [sorted[Math.floor(place)]!, sorted[Math.ceil(place)]!];
  return below + (above - below) * (place % 1);
}
