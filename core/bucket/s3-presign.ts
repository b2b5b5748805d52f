/**
 * Signed links after AWS's Signature Version 4, in the query (docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html).
 * The SDK takes a millisecond for each, and a list of tasks has many; so it makes one, and this makes others like it.
 */
import { createHash, createHmac } from 'node:crypto';

export interface LinkOptions {
  /** the object's path in the bucket; of characters that need no encoding */
  key: string;
  /** what the store is asked for beside the object; takes the place of what the first link asks for under the same names */
  query: Record<string, string>;
  date: Date;
  /** seconds */
  expiresIn: number;
}

/**
 * @param link one that the SDK has signed, for the object `key`
 * @param secret with which it was signed
 */
export function createPresigner(link: string, key: string, secret: string): (options: LinkOptions) => string {
  const { origin, host, pathname, searchParams } = new URL(link);
  const folder = pathname.slice(0, -key.length);
  const { 'X-Amz-Signature': _, 'X-Amz-Credential': credential = '', ...fixed } = Object.fromEntries(searchParams);
  const [region = '', ...rest] = credential.split('/').slice(-3); // after the key's id and the day
  const id = credential.slice(0, -`/20260101/${[region, ...rest].join('/')}`.length);
  let signingKey: { day: string; key: Buffer } | undefined;

  return ({ key, query, date, expiresIn }) => {
    const time = date.toISOString().replace(/[-:]|\.\d+/g, '');
    const day = time.slice(0, 8);
    const scope = [day, region, ...rest];
    if (signingKey?.day !== day) signingKey = { day, key: scope.reduce<Buffer>(hmac, Buffer.from(`AWS4${secret}`)) };
    const path = folder + key;
    const all = {
      ...fixed,
      ...query,
      'X-Amz-Credential': [id, ...scope].join('/'),
      'X-Amz-Date': time,
      'X-Amz-Expires': String(expiresIn),
    };
    const request = ['GET', path, queryString(all), `host:${host}`, '', 'host', 'UNSIGNED-PAYLOAD'].join('\n');
    const hash = createHash('sha256').update(request).digest('hex');
    const signature = hmac(signingKey.key, ['AWS4-HMAC-SHA256', time, scope.join('/'), hash].join('\n')).toString(
      'hex',
    );
    return `${origin}${path}?${queryString({ ...all, 'X-Amz-Signature': signature })}`;
  };
}

const hmac = (key: Buffer, text: string) => createHmac('sha256', key).update(text).digest();

const queryString = (query: Record<string, string>) =>
  Object.keys(query)
    .sort()
    .map((name) => `${encode(name)}=${encode(query[name]!)}`)
    .join('&');

const encode = (text: string) =>
  encodeURIComponent(text).replace(/[!'()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`);
