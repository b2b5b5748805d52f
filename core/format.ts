/** Numbers as text for people. */

/** Decimal units, as disks and networks are sold: `999 bytes`, `1.5 kB`, `20.0 MB`, `4.20 GB`. */
export function formatBytes(bytes: number): string {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(2)} GB`;
  if (bytes >= 1e6) return `${(bytes / 1e6).toFixed(1)} MB`;
  return bytes >= 1e3 ? `${(bytes / 1e3).toFixed(1)} kB` : `${Math.round(bytes)} bytes`;
}

/** Binary units, as memory is counted: `512 MiB`, `1.5 GiB`. */
export const formatMemory = (bytes: number): string =>
  bytes < 2 ** 30 ? `${Math.ceil(bytes / 2 ** 20)} MiB` : `${(bytes / 2 ** 30).toFixed(1)} GiB`;

/** Whole seconds below 100 s, whole minutes above, rounded up: `12 s`, `3 min`. */
export const formatDuration = (seconds: number): string =>
  seconds < 100 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} min`;

/** An amount in micro-units of a currency: `0.25 USD`. */
export const formatMoney = (microUnits: number, currency: string): string =>
  `${(microUnits / 1e6).toFixed(2)} ${currency}`;

/** Clears a terminal's current line. */
export const CLEAR_LINE = '\r\x1b[K';

/** Replaces a terminal's current line. The text is cut to the width: of a wrapped one, CLEAR_LINE would leave the upper part. */
export function drawLine(out: { columns?: number; write(text: string): unknown }, text: string): void {
  out.write(`${CLEAR_LINE}${text.slice(0, out.columns && out.columns - 1)}`);
}

const BAR_WIDTH = 28; // characters

/** A progress bar with its percentage: `███████░░░░░░░░░░░░░░░░░░░░░  25 %`. @param fraction 0 to 1 */
export function formatBar(fraction: number): string {
  const filled = Math.round(fraction * BAR_WIDTH);
  const percentage = String(Math.round(fraction * 100)).padStart(3);
  return `${'█'.repeat(filled)}${'░'.repeat(BAR_WIDTH - filled)} ${percentage} %`;
}

/** @example formatCount(1, 'frame') // '1 frame' */
export const formatCount = (count: number, noun: string) => `${count} ${noun}${count === 1 ? '' : 's'}`;
