// @ts-check
// Numbers and times as text.

/** @param {number} value @param {number} [digits] after the point, at most */
export const formatNumber = (value, digits = 3) =>
  new Intl.NumberFormat('en', { maximumFractionDigits: digits }).format(value);

/** `75`: `1 min 15 s`. @param {number} seconds */
export function formatDuration(seconds) {
  const whole = Math.max(1, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min${whole % 60 && whole < 600 ? ` ${whole % 60} s` : ''}`;
  return `${Math.floor(whole / 3600)} h ${Math.round((whole % 3600) / 60)} min`;
}

/** The length of a clip: `2.3 s`. @param {number} frames @param {number} fps */
export const formatClipLength = (frames, fps) => `${formatNumber(frames / fps, 1)} s`;

/**
 * `$0.25`; a small amount has as many digits as it takes to show two significant ones.
 * @param {{ amount: number, currency: string }} money the amount in micro-units
 */
export function formatMoney({ amount, currency }) {
  const units = amount / 1e6;
  const digits = units > 0 && units < 0.1 ? Math.min(6, 1 - Math.floor(Math.log10(units))) : 2;
  return new Intl.NumberFormat('en', {
    style: 'currency',
    currency,
    minimumFractionDigits: 2,
    maximumFractionDigits: Math.max(2, digits),
  }).format(units);
}

/** @param {number} bytes */
export const formatBytes = (bytes) =>
  bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1000))} kB` : `${formatNumber(bytes / 1e6, 1)} MB`;

/** `14:05` for today, else with the day. @param {string} iso */
export function formatTime(iso) {
  const date = new Date(iso);
  const isToday = date.toDateString() === new Date().toDateString();
  return date.toLocaleString(undefined, {
    ...(!isToday && { day: 'numeric', month: 'short' }),
    hour: '2-digit',
    minute: '2-digit',
  });
}
