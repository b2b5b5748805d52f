/**
 * Which addresses a stranger's URL may reach. The address is checked when the connection is made, and that very address is used, so
 * a name that resolves differently a moment later gains nothing.
 */
import { type LookupAddress, lookup as resolveName } from 'node:dns';
import type { LookupFunction } from 'node:net';
import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';
import { Agent } from 'undici';

/** A stranger's URL leads to a place that it may not reach. */
export class RefusedAddress extends Error {
  constructor(host: string) {
    super(`${host} is not a public address`);
    this.name = 'RefusedAddress';
  }
}

const GLOBAL_IPV6 = ipaddr.parseCIDR('2000::/3'); // all that is given out; ipaddr.js calls ::127.0.0.1 and unassigned blocks unicast too

/** Only global unicast: not private, loopback, link-local, carrier NAT, multicast, nor any of them wrapped in IPv6. */
export function isPublicAddress(address: string): boolean {
  if (!ipaddr.isValid(address)) return false;
  const parsed = ipaddr.process(address);
  return parsed.range() === 'unicast' && (parsed.kind() === 'ipv4' || parsed.match(GLOBAL_IPV6));
}

/**
 * What can be said of a URL's host without asking DNS.
 * @throws RefusedAddress for an address that is not public, and for localhost
 */
export function checkHost(url: URL): void {
  const host = url.hostname.replace(/^\[|\]$/g, '').replace(/\.$/, '');
  if (isIP(host) ? !isPublicAddress(host) : /(^|\.)localhost$/i.test(host)) throw new RefusedAddress(host);
}

/** `checkHost` as a question. */
export function isPublicHost(url: URL): boolean {
  try {
    checkHost(url);
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
 * Connections for strangers' URLs. A literal address never reaches the look-up, so `checkHost` comes before each request.
 * @param allowPrivate lifts the guard (ALLOW_PRIVATE_URLS=1)
 */
export function guardedAgent(allowPrivate: boolean): Agent {
  return new Agent({
    connect: { timeout: 10_000, ...(!allowPrivate && { lookup: publicLookup }) },
    headersTimeout: 15_000,
    bodyTimeout: 15_000,
    keepAliveTimeout: 1_000, // strangers' servers are rarely asked twice
  });
}
