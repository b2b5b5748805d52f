/** Webhooks to places that they may not reach. What names resolve to, and who is at a public address, is made up. */
import net from 'node:net';
import { Hono } from 'hono';
import { v7 } from 'uuid';
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { mockInternet, mockOwnAddresses, PUBLIC, resolveName } from '../../test/support/dns-mock.ts';
import { refusedUrls } from '../../test/support/malicious-urls.ts';
import { listen, type TestService, testService } from '../../test/support/test-api.ts';
import type { Delivery } from '../store/delivery.ts';

vi.mock('node:dns', { spy: true });
vi.mock('node:os', { spy: true });
const [OWN_IPV4, OWN_IPV6] = mockOwnAddresses();

let service: TestService;
let receiver: Awaited<ReturnType<typeof listen>>;
let answer: () => Response;
const heard: string[] = [];
beforeAll(async () => {
  service = await testService();
  receiver = await listen(
    new Hono().all('*', (c) => {
      heard.push(c.req.path);
      return answer();
    }),
  );
});
afterAll(async () => {
  await service.close();
  await receiver.close();
});
afterEach(() => {
  vi.restoreAllMocks();
  resolveName.mockReset();
  mockOwnAddresses();
  heard.length = 0;
});

/** One attempt at an address, past the check that stands before it; how it went. */
async function deliver(url: string): Promise<Delivery> {
  const { id } = await service.store.addDelivery({ ...DELIVERY, id: v7(), url });
  service.webhooks.wake();
  return vi.waitFor(async () => {
    const delivery = (await service.store.getDelivery('local', id))!;
    expect(delivery.attempts).toBe(1);
    return delivery;
  });
}
const DELIVERY = { owner: 'local', task_id: null, type: 'webhook.test', created_at: Date.now() };

test('a URL that is visibly private is refused when it is posted', async () => {
  for (const { url } of refusedUrls) {
    const address = url.replace(/^http:/, 'https:');
    const posted = await service.post({ prompt: 'x', webhook_url: address });
    const tested = await fetch(`${service.url}/webhooks/test?webhook_url=${encodeURIComponent(address)}`, {
      method: 'POST',
    });
    for (const response of [posted, tested]) {
      const { errors } = await response.json();
      expect([response.status, errors?.map(({ field }: { field: string }) => field)], address).toEqual([
        422,
        ['webhook_url'],
      ]);
    }
  }
  const plain = await service.post({ prompt: 'x', webhook_url: 'http://example.com/' });
  expect((await plain.json()).errors).toEqual([{ field: 'webhook_url', message: 'must be an https URL' }]);
  expect(await service.store.listDeliveries({ owner: 'local', limit: 1 })).toEqual([]);
});

test('an address of this machine is refused in every spelling, although it is public', async () => {
  const number = OWN_IPV4.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
  const spellings = [OWN_IPV4, number, `0x${number.toString(16)}`, `0${number.toString(8)}`, `${OWN_IPV4}.`];
  const wrapped = [`[::ffff:${OWN_IPV4}]`, `[64:ff9b::${OWN_IPV4}]`, `[2002:${number.toString(16).slice(0, 4)}::1]`];
  for (const host of [...spellings, ...wrapped, `[${OWN_IPV6}]`, '[2606:4700:0010:0:0:0:0:0050]', `${OWN_IPV4}:8443`])
    for (const field of ['image_url', 'webhook_url']) {
      const source = field === 'image_url' ? {} : { prompt: 'x' };
      const response = await service.post({ ...source, [field]: `https://${host}/` });
      const { errors } = await response.json();
      expect(response.status, String(host)).toBe(422);
      expect(errors).toEqual([{ field, message: expect.stringMatching(/^must lead to a public address/) }]);
    }
  const neighbour = new URLSearchParams({ prompt: 'x', webhook_url: 'https://93.184.216.51/' });
  const allowed = await fetch(`${service.url}/img2vid?dry_run=1`, { method: 'POST', body: neighbour });
  expect(allowed.status).toBe(200);
});

test.each([
  'http://127.0.0.1/',
  'http://168.63.129.16/',
  `http://${OWN_IPV4}/`,
  `http://[${OWN_IPV6}]/`,
  'http://[::1]/',
  'http://169.254.169.254/latest/meta-data',
  'http://10.0.0.1/',
  'http://2130706433/',
  'http://0177.0.0.1/',
  'http://0x7f.1/',
  'http://[::ffff:10.0.0.1]/',
  'http://localhost/',
])('%s is refused when it is sent, too', async (url) => {
  const connected = mockInternet({ localhost: [['127.0.0.1']] }, { '127.0.0.1': receiver.port });
  expect(await deliver(url)).toMatchObject({ status: 'failed', status_code: null, error: 'the address is not public' });
  expect([connected, heard]).toEqual([[], []]);
});

test.each([
  [['127.0.0.1']],
  [['10.0.0.1']],
  [['169.254.169.254']],
  [['::1']],
  [['::ffff:127.0.0.1']],
  [['64:ff9b::7f00:1']],
  [['168.63.129.16']],
  [[OWN_IPV4]],
  [[OWN_IPV6]],
  [[PUBLIC, OWN_IPV4]],
  [[PUBLIC, '127.0.0.1']],
])('a name that resolves to %j', async (addresses) => {
  const connected = mockInternet({ 'hook.example.com': [addresses] }, { '127.0.0.1': receiver.port });
  expect(await deliver('http://hook.example.com/')).toMatchObject({ error: 'the address is not public' });
  expect([connected, heard]).toEqual([[], []]);
});

test('the connection goes to the address that was checked, even if the name changes afterwards', async () => {
  answer = () => new Response('ok', { headers: { connection: 'close' } }); // the next one connects anew
  const inside = vi.fn();
  const server = net.createServer(inside).listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as net.AddressInfo;
  const names = { 'rebind.example.com': [[PUBLIC], ['127.0.0.1']] };
  const connected = mockInternet(names, { [PUBLIC]: receiver.port, '127.0.0.1': port });
  expect(await deliver('http://rebind.example.com/a')).toMatchObject({ status: 'delivered', status_code: 200 });
  expect(await deliver('http://rebind.example.com/b')).toMatchObject({ error: 'the address is not public' });
  expect([connected, heard, inside.mock.calls]).toEqual([[PUBLIC], ['/a'], []]);
  server.close();
});

test.each([301, 302, 303, 307, 308])(
  'a redirect (%i) to a private address, or to any other, is not followed',
  async (status) => {
    for (const location of [
      'http://169.254.169.254/',
      'http://127.0.0.1/inside',
      'http://hook.example.com/elsewhere',
    ]) {
      answer = () => new Response(null, { status, headers: { location } });
      const connected = mockInternet(
        { 'hook.example.com': [[PUBLIC]] },
        { [PUBLIC]: receiver.port, '127.0.0.1': receiver.port },
      );
      expect(await deliver(`http://hook.example.com/${status}`)).toMatchObject({
        status: 'failed',
        status_code: status,
      });
      expect(connected.every((address) => address === PUBLIC)).toBe(true);
    }
    expect(new Set(heard)).toEqual(new Set([`/${status}`]));
  },
);
