/** Hosts that a server listens at. */

/** Whether only this machine reaches it. */
export const isLoopback = (host: string) => /^(localhost|127(\.\d{1,3}){3}|::1|\[::1\])$/i.test(host);

/** Where this machine reaches what listens at a host: for one that means every address of the machine, at loopback's. */
export function ownAddress(host: string, port: number): string {
  const reached = { '0.0.0.0': '127.0.0.1', '::': '::1' }[host] ?? host;
  return `http://${reached.includes(':') ? `[${reached}]` : reached}:${port}`;
}
