/**
 * Limits untrusted URLs to public addresses. The address is checked when the connection is made, and the same address is used, so a
 * name that resolves differently a moment later (DNS rebinding) gains nothing.
 */
import { type LookupAddress, lookup as resolveName } from 'node:dns';
import type { LookupFunction } from 'node:net';
import { isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import ipaddr from 'ipaddr.js';
import { Agent, buildConnector } from 'undici';
import { SECOND } from '../time.ts';

/** Thrown when an untrusted URL leads to an address or port that is not allowed. */
export class RefusedAddress extends Error {
  constructor(host: string, why = 'is not a public address') {
    super(`${host} ${why}`);
    this.name = 'RefusedAddress';
  }
}

/** The hosts that are allowed, as text. */
export const ALLOWED_HOSTS = 'a public address, on port 80, 443 or 1024 and above';

const GLOBAL_IPV6 = ipaddr.parseCIDR('2000::/3'); // ipaddr.js also calls ::127.0.0.1 and unassigned blocks unicast

/** Azure answers its machines' requests for settings and DNS here. All other clouds use addresses that are private by their range. */
const AZURE_HOST = '168.63.129.16';

/**
 * Only global unicast: not private, loopback, link-local, carrier NAT, multicast, nor any of them wrapped in IPv6. An address of this
 * machine or of its cloud's host is not public either, whatever its range.
 */
export function isPublicAddress(address: string): boolean {
  if (!ipaddr.isValid(address)) return false;
  const parsed = ipaddr.process(address);
  const isGlobal = parsed.range() === 'unicast' && (parsed.kind() === 'ipv4' || parsed.match(GLOBAL_IPV6));
  return isGlobal && parsed.toString() !== AZURE_HOST && !isOwnAddress(parsed.toString());
}

/** Whether an interface of this machine has the address. They are read at each call, because they change while a process runs. */
function isOwnAddress(address: string): boolean {
  const interfaces = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
  return interfaces.some((own) => ipaddr.process(own.address).toString() === address);
}

/**
 * Checks a URL's host and port without DNS.
 * @throws RefusedAddress for an address that is not public, for localhost, and for the ports of other services
 */
export function assertPublicHost(url: URL): void {
  const host = url.hostname.replace(/^\[|\]$/g, '').replace(/\.$/, '');
  if (isIP(host) ? !isPublicAddress(host) : /(^|\.)localhost$/i.test(host)) throw new RefusedAddress(host);
  const port = Number(url.port || 443); // SSH and SMTP servers react to a line of HTTP
  if (port !== 80 && port !== 443 && port < 1024)
    throw new RefusedAddress(url.host, 'is not on port 80, 443 or above 1023');
}

/** Whether assertPublicHost would not throw. */
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
 * Connections for untrusted URLs: without proxies, even if the environment names one, and only to servers with a valid certificate.
 * @param allowPrivate allows all addresses (ALLOW_PRIVATE_URLS=1)
 */
export function createGuardedAgent(allowPrivate: boolean): Agent {
  const lookup = allowPrivate ? {} : { lookup: publicLookup };
  const connector = buildConnector({ timeout: 10 * SECOND, rejectUnauthorized: true, ...lookup });
  return new Agent({
    connect(options, callback) {
      const host = options.hostname.replace(/^\[|\]$/g, ''); // a literal address never reaches publicLookup
      const refused = !allowPrivate && isIP(host) && !isPublicAddress(host);
      if (refused) callback(new RefusedAddress(host), null);
      else connector(options, callback);
    },
    headersTimeout: 15 * SECOND,
    bodyTimeout: 15 * SECOND,
    keepAliveTimeout: SECOND, // a server is rarely asked twice
  });
}
