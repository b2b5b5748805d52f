/** What an API key looks like, and how one is made and recognised. */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import type { Key } from '../store/key.ts';

/** The id tells which key it is, the rest is the secret: 256 bits at random. */
const TEXT = /^i2v_([\da-f]{16})_[\w-]{43}$/;

/** Of several processes that start at once without any key, one makes this. */
export const FIRST_KEY = '0'.repeat(16);

/** What no key has from the beginning. */
export const KEY_DEFAULTS = {
  old_hash: null,
  old_until: null,
  budget: null,
  max_active: null,
  submissions_per_minute: null,
  requests_per_minute: null,
  old_webhook_secret: null,
  old_webhook_until: null,
  revoked_at: null,
};

/** @returns the key's text, which is shown once, and what is kept of it */
export function generateKey(id = randomBytes(8).toString('hex')): { id: string; value: string; hash: string } {
  const value = `i2v_${id}_${randomBytes(32).toString('base64url')}`;
  return { id, value, hash: hashOf(value) };
}

/** The id that a text claims to have; undefined if it is no key's. */
export const parseKeyId = (text: string): string | undefined => TEXT.exec(text)?.[1];

/** Whether it is this key's text, in a time that tells nothing of how much of it is right. */
export function verifyKey(text: string, key: Key | undefined, now: number): boolean {
  const hash = hashOf(text);
  const isCurrent = equal(hash, key?.hash);
  const isOld = equal(hash, key?.old_hash) && now < (key?.old_until ?? 0);
  return (isCurrent || isOld) && key?.revoked_at === null;
}

const hashOf = (text: string) => createHash('sha256').update(text).digest('hex');
const NOBODY = '-'.repeat(64);
const equal = (hash: string, known: string | null | undefined) =>
  timingSafeEqual(Buffer.from(hash), Buffer.from(known ?? NOBODY));

/** whsec_ and base64, as Standard Webhooks has them. */
export const newWebhookSecret = () => `whsec_${randomBytes(32).toString('base64')}`;
