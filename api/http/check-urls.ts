import type { FieldNote } from '../../core/invalid-request.ts';
import { ALLOWED_HOSTS, isPublicHost } from '../../core/net/address-guard.ts';
import type { Input } from '../../core/parameters.ts';
import type { Config } from '../config.ts';

/** What is wrong with a client's URLs without resolving names; resolved addresses are checked at each use. */
export function urlErrors(
  { image_url, webhook_url }: Pick<Input, 'image_url' | 'webhook_url'>,
  { allowPrivateUrls }: Pick<Config, 'allowPrivateUrls'>,
): FieldNote[] {
  if (allowPrivateUrls) return [];
  const errors = Object.entries({ image_url, webhook_url })
    .filter(([, url]) => url !== undefined && !isPublicHost(new URL(url)))
    .map(([field]) => ({ field, message: `must lead to ${ALLOWED_HOSTS} (ALLOW_PRIVATE_URLS=1 allows others)` }));
  if (webhook_url?.startsWith('http:')) errors.push({ field: 'webhook_url', message: 'must be an https URL' });
  return errors;
}
