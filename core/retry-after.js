// @ts-check
// JavaScript, because the web page loads this module as it is.

/**
 * The pause that a `Retry-After` header asks for (RFC 9110, section 10.2.3): seconds or a date.
 * @param {string | null | undefined} header
 * @param {number} [now] milliseconds since 1970
 * @returns {number | undefined} milliseconds, at least 0; undefined where the header is absent or malformed
 */
export function parseRetryAfter(header, now = Date.now()) {
  const text = header?.trim();
  if (!text) return undefined;
  if (/^\d+$/.test(text)) return Number(text) * 1000;
  const date = /^[A-Z]/i.test(text) ? Date.parse(text) : Number.NaN; // Date.parse takes `-5` for a year
  return Number.isNaN(date) ? undefined : Math.max(0, date - now);
}
