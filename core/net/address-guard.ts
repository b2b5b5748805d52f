/**
 * Limits untrusted URLs to public addresses. The address is checked when the connection is made, and the same address is used, so a
 * name that resolves differently a moment later (DNS rebinding) does not help an attacker.
 */
import { type LookupAddress, lookup as resolveName } from 'node:dns';
import { once } from 'node:events';
import http, { type IncomingMessage } from 'node:http';
import https from 'node:https';
import net, { isIP, type LookupFunction } from 'node:net';
import { networkInterfaces } from 'node:os';
import tls from 'node:tls';
import ipaddr from 'ipaddr.js';
import { SECOND } from '../time.ts';

/** Bytes: more than any server needs. */
const MAX_RESPONSE_HEADERS = 65_536;
const CONNECT_TIMEOUT = 10 * SECOND;

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
 * machine or of its cloud's host is not public either, in any range.
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

export interface GuardedRequest {
  method?: 'GET' | 'POST';
  headers: Record<string, string>;
  body?: string;
  signal: AbortSignal;
  /** allows all addresses (ALLOW_PRIVATE_URLS=1) */
  allowPrivate: boolean;
}

/**
 * Sends one request to an untrusted URL: without proxies, even if the environment names one, and only to a server with a valid
 * certificate. Node's lenient parser accepts what small servers send: bare LF, folded headers, an unexpected 100 Continue.
 * @returns the response, whose body the caller reads or destroys
 * @throws RefusedAddress
 */
export async function requestUntrusted(
  url: URL,
  { allowPrivate, body, ...options }: GuardedRequest,
): Promise<IncomingMessage> {
  if (!allowPrivate) assertPublicHost(url); // a literal address never reaches publicLookup
  const { request } = url.protocol === 'https:' ? https : http;
  const sent = request(url, {
    ...options,
    ...(!allowPrivate && { lookup: publicLookup }),
    createConnection: url.protocol === 'https:' ? connectTls : (address) => net.connect(address as net.NetConnectOpts),
    rejectUnauthorized: true,
    insecureHTTPParser: true,
    maxHeaderSize: MAX_RESPONSE_HEADERS,
    timeout: CONNECT_TIMEOUT,
  });
  sent.on('timeout', () => sent.socket?.connecting && sent.destroy(new Error('the connection was not accepted')));
  sent.on('upgrade', (_, socket) => {
    socket.destroy();
    sent.emit('error', new Error('the server switched to another protocol'));
  });
  let response: IncomingMessage | undefined;
  sent.on('error', (error) => response?.destroy(error)); // without a length, Node takes a reset for the end of the body
  [response] = await once(sent.end(body), 'response');
  return response!;
}

const connectTls: http.RequestOptions['createConnection'] = (address) => {
  const { host } = address;
  return tls.connect({ ...(address as tls.ConnectionOptions), servername: host && !isIP(host) ? host : '' });
};
