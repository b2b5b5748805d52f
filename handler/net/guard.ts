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

/** Only global unicast: not private, loopback, link-local, carrier NAT, multicast, nor any of them wrapped in IPv6. */
export function isPublicAddress(address: string): boolean {
  return ipaddr.isValid(address) && ipaddr.process(address).range() === 'unicast';
}

/**
 * What can be said of a URL's host without asking DNS.
 * @throws RefusedAddress for an address that is not public, and for localhost
 */
export function checkHost(url: URL): void {
  const host = url.hostname.replace(/^\[|\]$/g, '').replace(/\.$/, '');
  if (isIP(host) ? !isPublicAddress(host) : /(^|\.)localhost$/i.test(host)) throw new RefusedAddress(host);
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
