import { type LookupAddress, lookup } from 'node:dns';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { mockOwnAddresses } from '../../test/support/dns-mock.ts';
import { refusedHosts } from '../../test/support/malicious-urls.ts';
import { assertPublicHost, isPublicAddress, RefusedAddress, requestUntrusted } from './address-guard.ts';

vi.mock('node:dns', { spy: true });
vi.mock('node:os', { spy: true });
const [OWN_IPV4, OWN_IPV6] = mockOwnAddresses();

describe('assertPublicHost', () => {
  test.each(refusedHosts)('refuses %s', (host) => {
    for (const protocol of ['http', 'https']) {
      expect(() => assertPublicHost(new URL(`${protocol}://${host}/picture.png`))).toThrow(RefusedAddress);
    }
  });

  test.each([
    '8.8.8.8',
    '134744072', // 8.8.8.8
    '1.1.1.1:8080',
    '[2606:4700:4700::1111]',
    '[2a00:1450:4001::1]:8443',
    'example.com',
    'example.com.',
    'localhost.example.com',
    'notlocalhost',
    '127.0.0.1.example.com',
    'xn--bcher-kva.example',
    '127.0.0.1@example.com',
  ])('lets %s pass', (host) => {
    expect(() => assertPublicHost(new URL(`http://${host}/`))).not.toThrow();
  });
});

describe('isPublicAddress', () => {
  const publicNeighbours = [
    ['8.8.8.8', true],
    ['::ffff:8.8.8.8', true],
    ['2001:4860:4860::8888', true],
    // next to refused ranges
    ['1.0.0.0', true],
    ['9.255.255.255', true],
    ['11.0.0.0', true],
    ['100.63.255.255', true],
    ['100.64.0.0', false],
    ['100.128.0.0', true],
    ['126.255.255.255', true],
    ['127.0.0.0', false],
    ['128.0.0.1', true],
    ['169.253.255.255', true],
    ['169.255.0.0', true],
    ['172.15.255.255', true],
    ['172.16.0.0', false],
    ['172.32.0.0', true],
    ['192.167.255.255', true],
    ['192.169.0.0', true],
    ['223.255.255.255', true],
    ['1fff:ffff::1', false],
    ['2400::1', true],
    ['3ffe::1', true],
    // not an address
    ['', false],
    ['example.com', false],
    ['8.8.8.8/8', false],
    ['8.8.8.8:80', false],
    ['256.1.1.1', false],
    ['fe80::1%eth0', false],
  ] as const;
  test.each(publicNeighbours)('%s: %s', (address, expected) => {
    expect(isPublicAddress(address)).toBe(expected);
  });
});

describe('requestUntrusted', () => {
  let server: Server;
  let port: number;
  let requests = 0;

  beforeAll(async () => {
    server = createServer((_, response) => {
      requests++;
      response.end('inside');
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    port = (server.address() as AddressInfo).port;
  });
  afterAll(() => new Promise((resolve) => server.close(resolve)));

  type Callback = (error: Error | null, addresses?: LookupAddress[]) => void;
  const resolveName = vi.mocked(lookup as unknown as (name: string, options: unknown, callback: Callback) => void);

  beforeEach(() => {
    requests = 0;
    resolveName.mockReset(); // the real lookup, unless a test mocks it
  });

  const { signal } = new AbortController();
  const get = async (host: string, allowPrivate: boolean) =>
    text(await requestUntrusted(new URL(`http://${host}:${port}/`), { allowPrivate, headers: {}, signal }));

  /** Mocks the addresses of names. */
  function resolveTo(...addresses: string[]) {
    const answer = addresses.map((address): LookupAddress => ({ address, family: address.includes(':') ? 6 : 4 }));
    resolveName.mockImplementation((_name, _options, callback) => callback(null, answer));
  }

  test('refuses a name of this machine when it connects', async () => {
    await expect(get('localhost', false)).rejects.toBeInstanceOf(RefusedAddress);
    expect(requests).toBe(0);
  });

  test.each(['127.0.0.1', '[::1]', '[::ffff:127.0.0.1]'])('refuses %s without a DNS query', async (host) => {
    await expect(get(host, false)).rejects.toBeInstanceOf(RefusedAddress);
    expect(requests).toBe(0);
  });

  test('allows it where private addresses are allowed', async () => {
    expect(await get('localhost', true)).toBe('inside');
  });

  test.each([
    [['127.0.0.1']],
    [['::1']],
    [['::ffff:127.0.0.1']],
    [['169.254.169.254']],
    [['10.1.2.3']],
    [['0.0.0.0']],
    [['64:ff9b::7f00:1']],
    [['168.63.129.16']],
    [['::ffff:168.63.129.16']],
    [[OWN_IPV4]],
    [[`::ffff:${OWN_IPV4}`]],
    [[`64:ff9b::${OWN_IPV4}`]],
    [[OWN_IPV6]],
    [['8.8.8.8', OWN_IPV6]],
    [['8.8.8.8', '127.0.0.1']], // one private address refuses the name: the connection may try any
    [['127.0.0.1', '8.8.8.8']],
    [[]],
  ])('refuses a public name that resolves to %j', async (addresses) => {
    resolveTo(...addresses);
    await expect(get('pictures.example.com', false)).rejects.toBeInstanceOf(RefusedAddress);
    expect(lookup).toHaveBeenCalledOnce(); // a second lookup could return another address
    expect(requests).toBe(0);
  });

  test('reports that a name does not resolve', async () => {
    const failure = Object.assign(new Error('getaddrinfo ENOTFOUND'), { code: 'ENOTFOUND' });
    resolveName.mockImplementation((_name, _options, callback) => callback(failure));
    await expect(get('nowhere.example.com', false)).rejects.toBe(failure);
  });
});
