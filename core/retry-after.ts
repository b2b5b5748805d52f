import { SECOND } from './time.ts';

/**
 * The pause that a `Retry-After` header asks for (RFC 9110, section 10.2.3): seconds or a date.
 * @param now milliseconds since 1970
 * @returns milliseconds, at least 0; undefined where the header is absent or malformed
 */
export function parseRetryAfter(header: string | null | undefined, now = Date.now()): number | undefined {
  const text = header?.trim();
  if (!text) return undefined;
  if (/^\d+$/.test(text)) return Number(text) * SECOND;
  const date = /^[A-Z]/i.test(text) ? Date.parse(text) : Number.NaN; // Date.parse takes `-5` for a year
  return Number.isNaN(date) ? undefined : Math.max(0, date - now);
}
