/** Content negotiation by the weights of a header (RFC 9110, section 12.5). */
import type { Context } from 'hono';
import { accepts } from 'hono/accepts';

/** Whether the client accepts `name`, with at least the weight of `other`. Names are lower-case; wildcards do not count. */
export const prefers = (c: Context, header: 'Accept' | 'Accept-Encoding', name: string, other: string): boolean =>
  accepts(c, {
    header,
    supports: [name, other],
    default: other,
    match: (accepted) => {
      const weight = (wanted: string) => accepted.find(({ type }) => type.toLowerCase() === wanted)?.q ?? 0;
      return weight(name) > 0 && weight(name) >= weight(other) ? name : other;
    },
  }) === name;
