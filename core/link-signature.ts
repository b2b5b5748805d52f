/** Signatures of links: HMAC-SHA256 of what a link leads to and of when it expires. */
import { createHmac, timingSafeEqual } from 'node:crypto';
import { SECOND } from './time.ts';

/** @param expires seconds since 1970 */
export const signLink = (secret: Uint8Array | string, target: string, expires: number | string): string =>
  createHmac('sha256', secret).update(`${target}\n${expires}`).digest('base64url');

/** Whether the signature is valid and has not expired. @param now milliseconds since 1970 */
export function isLinkValid(
  secret: Uint8Array | string,
  target: string,
  { expires = '', signature = '' }: { expires?: string | undefined; signature?: string | undefined },
  now: number,
): boolean {
  const expected = Buffer.from(signLink(secret, target, expires));
  const given = Buffer.from(signature);
  const isSigned = given.length === expected.length && timingSafeEqual(given, expected);
  return isSigned && Number(expires) * SECOND > now;
}
