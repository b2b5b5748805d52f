/**
 * Which addresses a stranger's URL may reach. The address is checked when the connection is made, and that very address is used, so
 * a name that resolves differently a moment later gains nothing.
 */
import { type LookupAddress, lookup as resolveName } from 'node:dns';
import type { LookupFunction } from 'node:net';
import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';
import { Agent, buildConnector } from 'undici';

/** A stranger's URL leads to a place that it may not reach. */
export class RefusedAddress extends Error {
  constructor(host: string, why = 'is not a public address') {
    super(`${host} ${why}`);
    this.name = 'RefusedAddress';
  }
}

/** Where a URL may lead, in words. */
export const ALLOWED_HOSTS = 'a public address, on port 80, 443 or 1024 and above';

const GLOBAL_IPV6 = ipaddr.parseCIDR('2000::/3'); // all that is given out; ipaddr.js calls ::127.0.0.1 and unassigned blocks unicast too

/** Only global unicast: not private, loopback, link-local, carrier NAT, multicast, nor any of them wrapped in IPv6. */
export function isPublicAddress(address: string): boolean {
  if (!ipaddr.isValid(address)) return false;
  const parsed = ipaddr.process(address);
  return parsed.range() === 'unicast' && (parsed.kind() === 'ipv4' || parsed.match(GLOBAL_IPV6));
}

/**
 * What can be said of a URL's host and port without asking DNS.
 * @throws RefusedAddress for an address that is not public, for localhost, and for a port where something else than the web is served
 */
export function assertPublicHost(url: URL): void {
  const host = url.hostname.replace(/^\[|\]$/g, '').replace(/\.$/, '');
  if (isIP(host) ? !isPublicAddress(host) : /(^|\.)localhost$/i.test(host)) throw new RefusedAddress(host);
  const port = Number(url.port || 443); // 22 and 25 understand a line of HTTP well enough to be annoyed
  if (port !== 80 && port !== 443 && port < 1024)
    throw new RefusedAddress(url.host, 'is not on port 80, 443 or above 1023');
}

/** `assertPublicHost` as a question. */
export function isPublicHost(url: URL): boolean {
  try {
    assertPublicHost(url);
    return true;
  } catch {
    return false;
  }
}

const publicLookup: LookupFunction = (hostname, options, callback) => {
  resolveName(hostname, { ...options, all: true }, (error, addresses: LookupAddress[]) => {
    if (error) return callback(error, '', 0);
    const refused = addresses.some(({ address }) => !isPublicAddress(address));
    const first = addresses[0];
    if (refused || !first) return callback(new RefusedAddress(hostname), '', 0);
    if (options.all) callback(null, addresses);
    else callback(null, first.address, first.family);
  });
};

/**
 * Connections for strangers' URLs: without proxies, whatever the environment says, and only to servers with a good certificate.
 * @param allowPrivate lifts the guard (ALLOW_PRIVATE_URLS=1)
 */
export function createGuardedAgent(allowPrivate: boolean): Agent {
  const lookup = allowPrivate ? {} : { lookup: publicLookup };
  const connector = buildConnector({ timeout: 10_000, rejectUnauthorized: true, ...lookup });
  return new Agent({
    connect(options, callback) {
      const host = options.hostname.replace(/^\[|\]$/g, ''); // a literal address never reaches the look-up
      const refused = !allowPrivate && isIP(host) && !isPublicAddress(host);
      if (refused) callback(new RefusedAddress(host), null);
      else connector(options, callback);
    },
    headersTimeout: 15_000,
    bodyTimeout: 15_000,
    keepAliveTimeout: 1_000, // strangers' servers are rarely asked twice
  });
}
