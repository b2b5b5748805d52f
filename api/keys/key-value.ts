/** The value of an API key: `i2v_`, the key's id and a secret of 256 random bits. The store keeps only its hash. */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import type { Key } from '../store/key.ts';

const PATTERN = /^i2v_([\da-f]{16})_[\w-]{43}$/;

/** Id of the first key: of several processes that start without a key, one creates it. */
export const FIRST_KEY = '0'.repeat(16);

/** @returns the value, to be shown once, and the hash to be stored */
export function generateKey(id = randomBytes(8).toString('hex')): { id: string; value: string; hash: string } {
  const value = `i2v_${id}_${randomBytes(32).toString('base64url')}`;
  return { id, value, hash: hashOf(value) };
}

/** The id in the value of a key; undefined: it is malformed. */
export const parseKeyId = (value: string): string | undefined => PATTERN.exec(value)?.[1];

/** Whether this is the key's value, or its previous one during a rotation. Constant time, also without a key. */
export function verifyKey(value: string, key: Key | undefined, now: number): boolean {
  const hash = hashOf(value);
  const isCurrent = isEqual(hash, key?.hash);
  const isOld = isEqual(hash, key?.old_hash) && now < (key?.old_until ?? 0);
  return (isCurrent || isOld) && key?.revoked_at === null;
}

const hashOf = (value: string) => createHash('sha256').update(value).digest('hex');
const NO_HASH = '-'.repeat(64);
const isEqual = (hash: string, stored: string | null | undefined) =>
  timingSafeEqual(Buffer.from(hash), Buffer.from(stored ?? NO_HASH));

/** whsec_ and base64, as Standard Webhooks defines it. */
export const newWebhookSecret = () => `whsec_${randomBytes(32).toString('base64')}`;
