/** For tests that mock `node:dns` or `node:os` with `{ spy: true }`: names, this machine's addresses, and servers at public addresses. */
import { type LookupAddress, lookup } from 'node:dns';
import net from 'node:net';
import { type NetworkInterfaceInfo, networkInterfaces } from 'node:os';
import { vi } from 'vitest';

type Callback = (error: Error | null, addresses: LookupAddress[]) => void;
/** The mock of dns.lookup. */
export const resolveName = vi.mocked(lookup as unknown as (name: string, options: unknown, callback: Callback) => void);

/** A public address. */
export const PUBLIC = '93.184.216.34';

/**
 * @param names each name's addresses, one list for each query (the last one repeats)
 * @param ports the local ports that serve public addresses
 * @returns the addresses that were connected to
 */
export function mockInternet(names: Record<string, string[][]>, ports: Record<string, number>): string[] {
  const connected: string[] = [];
  resolveName.mockImplementation((name, _options, callback) => {
    const answers = names[name] ?? [];
    const addresses = answers.length > 1 ? answers.shift()! : (answers[0] ?? []);
    const found = addresses.map((address) => ({ address, family: net.isIP(address) }));
    if (found.length > 0) callback(null, found);
    else callback(Object.assign(new Error(`getaddrinfo ENOTFOUND ${name}`), { code: 'ENOTFOUND' }), []);
  });
  vi.spyOn(net, 'connect').mockImplementation(((options: net.TcpNetConnectOpts) => {
    const socket = Object.assign(new net.Socket(), { connecting: true });
    const reach = (address: string) => {
      connected.push(address);
      const port = ports[address];
      if (port) socket.connect(port, '127.0.0.1');
      else socket.destroy(new Error(`no server at ${address}`));
    };
    const connect = () => {
      if (net.isIP(options.host!)) return reach(options.host!);
      options.lookup!(options.host!, { all: true }, (error, addresses) => {
        if (error) socket.destroy(error);
        else reach((addresses as LookupAddress[])[0]!.address);
      });
    };
    setImmediate(connect); // the real one never fails before it returns
    return socket;
  }) as typeof net.connect);
  return connected;
}

/** Gives this machine one public address of each family. @returns the two addresses */
export function mockOwnAddresses(): [ipv4: string, ipv6: string] {
  const [ipv4, ipv6] = ['93.184.216.50', '2606:4700:10::50'];
  const info = (address: string) => ({ address, family: `IPv${net.isIP(address)}` }) as NetworkInterfaceInfo;
  vi.mocked(networkInterfaces).mockReturnValue({ lo: [info('127.0.0.1')], eth0: [info(ipv4), info(ipv6)] });
  return [ipv4, ipv6];
}
