import { expect, test } from 'vitest';
import { readEnvironment } from '../../../core/environment.ts';
import { BRIDGE_VARIABLES, openBridges } from './open-bridges.ts';

const open = (bridge?: string, key?: string, url?: string) =>
  openBridges({ MIDJOURNEY_BRIDGE: bridge, MIDJOURNEY_API_KEY: key, MIDJOURNEY_BASE_URL: url });
const names = (...args: Parameters<typeof open>) => open(...args).map(({ name }) => name);
const own = (bridge: ReturnType<typeof open>[0], url: string) => bridge.trusts(new URL(url));

test('opens none, one, or several bridges in order', () => {
  expect(names()).toEqual([]);
  expect(names('tnl', 'key')).toEqual(['tnl']);
  expect(names('legnext, tnl ,imaginepro', 'a,b,c')).toEqual(['legnext', 'tnl', 'imaginepro']);
  expect(names('tnl', 'a key, with a comma')).toEqual(['tnl']);
});

test('each variable has an older name, and one value', () => {
  const url = 'http://10.0.0.1';
  const old = { MIDJOURNEY_BRIDGE: 'mj-proxy', MIDJOURNEY_API_KEY: 'a', MIDJOURNEY_BASE_URL: url };
  const current = { STILL_BRIDGE: 'mj-proxy', STILL_API_KEY: 'a', STILL_BASE_URL: url };
  const mixed = { STILL_BRIDGE: 'mj-proxy', MIDJOURNEY_BASE_URL: url, MIDJOURNEY_BRIDGE: '' };
  for (const env of [old, current, mixed, { ...old, ...current }])
    expect(openBridges(env).map((bridge) => own(bridge, `${url}/x.png`))).toEqual([true]);
  for (const name of ['BRIDGE', 'API_KEY', 'BASE_URL'])
    expect(() => openBridges({ ...old, ...current, [`MIDJOURNEY_${name}`]: 'http://other' })).toThrow(
      `STILL_${name} and MIDJOURNEY_${name} have different values`,
    );
  expect(() => openBridges({ STILL_BRIDGE: 'tnl' })).toThrow('STILL_API_KEY is needed for STILL_BRIDGE tnl');
});

test('openai has a model, and a key or a server', () => {
  const server = { STILL_BRIDGE: 'openai', STILL_BASE_URL: 'http://10.0.0.1:8080/v1', STILL_MODEL: 'flux' };
  const [bridge] = openBridges({ ...server, STILL_COUNT: 2, STILL_TIMEOUT: 900 });
  expect(bridge).toMatchObject({ name: 'openai', count: 2, answerTimeout: 900_000 });
  expect(own(bridge!, 'http://10.0.0.1:8080/generated-images/x.png')).toBe(true);
  const [official] = openBridges({ STILL_BRIDGE: 'openai', STILL_API_KEY: 'a', STILL_MODEL: 'gpt-image-1' });
  expect(own(official!, 'https://api.openai.com/x.png')).toBe(true);
  expect(official!.count).toBe(1);
});

test.each([
  [{ STILL_BRIDGE: 'openai', STILL_API_KEY: 'a' }, /^STILL_MODEL is needed for STILL_BRIDGE openai$/],
  [{ MIDJOURNEY_BRIDGE: 'openai', STILL_API_KEY: 'a' }, /^STILL_MODEL is needed for MIDJOURNEY_BRIDGE openai$/],
  [{ STILL_BRIDGE: 'openai', STILL_MODEL: 'x' }, /^STILL_API_KEY is needed for .* at https:\/\/api.openai.com\/v1$/],
  [
    { STILL_BRIDGE: 'openai', STILL_API_KEY: 'a', STILL_MODEL: 'dall-e-3', STILL_COUNT: 2 },
    /^STILL_COUNT must be 1 for dall-e-3$/,
  ],
  [{ STILL_BRIDGE: 'tnl', STILL_API_KEY: 'a', STILL_MODEL: 'x' }, /^STILL_MODEL is only for STILL_BRIDGE openai$/],
  [{ STILL_COUNT: 2 }, /^STILL_COUNT is only for STILL_BRIDGE openai$/],
])('%j stops the start', (env, message) => {
  expect(() => openBridges(env)).toThrow(message);
});

test.each([
  ['STILL_SIZES', '1024x1024, 1536x1024', ['1024x1024', '1536x1024']],
  ['STILL_SIZES', 'auto', ['auto']],
  ['STILL_SIZES', 'auto,1024x1024', /^STILL_SIZES must be sizes such as/],
  ['STILL_SIZES', 'large', /^STILL_SIZES must be sizes such as/],
  ['STILL_QUALITY', 'best', /^STILL_QUALITY must be one of auto, low/],
  ['STILL_COUNT', '5', /^STILL_COUNT must be a whole number from 1 to 4$/],
] as const)('%s=%s', (name, text, expected) => {
  const read = () => readEnvironment(BRIDGE_VARIABLES, { [name]: text });
  if (expected instanceof RegExp) expect(read).toThrow(expected);
  else expect(read()[name]).toEqual(expected);
});

test('a bridge has its default URL unless one is given', () => {
  const [tnl] = open('tnl', 'key', 'http://10.0.0.1:8080/v2');
  expect(own(tnl!, 'http://10.0.0.1:8080/x.png')).toBe(true);
  const [legnext, mjProxy] = open('legnext,mj-proxy', 'a,', ',http://10.0.0.2:8080/');
  expect(own(legnext!, 'https://api.legnext.ai/x.png')).toBe(true);
  expect(own(mjProxy!, 'http://10.0.0.2:8080/x.png')).toBe(true);
});

test('only a bridge on this machine is polled quickly', () => {
  expect(open('tnl,imaginepro,legnext', 'a,b,c').map(({ pollInterval }) => pollInterval)).toEqual([3000, 6000, 10_000]);
  expect(open('legnext', 'a', 'http://127.0.0.1:9/x')[0]!.pollInterval).toBe(200);
  expect(open('legnext', 'a', 'http://127.0.0.1.example.com')[0]!.pollInterval).toBe(10_000);
});

test.each([
  [['nextleg', 'a'], /^MIDJOURNEY_BRIDGE must be one of tnl, imaginepro, legnext, mj-proxy, openai, or several/],
  [['tnl,', 'a,b'], /^MIDJOURNEY_BRIDGE must be/],
  [['tnl,tnl', 'a,b'], /^MIDJOURNEY_BRIDGE must be/],
  [['tnl'], /^MIDJOURNEY_API_KEY is needed for MIDJOURNEY_BRIDGE tnl$/],
  [['mj-proxy,tnl', 'a,', 'http://10.0.0.1,'], /^MIDJOURNEY_API_KEY is needed for MIDJOURNEY_BRIDGE tnl$/],
  [['tnl,legnext', 'a'], /^MIDJOURNEY_API_KEY must have as many parts, .*: 2$/],
  [['tnl,legnext', 'a,b,c'], /^MIDJOURNEY_API_KEY must have as many parts/],
  [['tnl,legnext', 'a,b', 'http://10.0.0.1'], /^MIDJOURNEY_BASE_URL must have as many parts/],
  [['mj-proxy', 'a'], /^MIDJOURNEY_BASE_URL is needed for MIDJOURNEY_BRIDGE mj-proxy/],
  [['tnl', 'a', 'example.com'], /^MIDJOURNEY_BASE_URL must be an http or https URL$/],
  ...['a\nb', 'a…', 'clé'].map((key) => [['tnl', key], /^MIDJOURNEY_API_KEY must have only ASCII/] as const),
  ...['u:p@example.com/v1', 'u@example.com', 'example.com/v1?x=1', 'example.com/#v1'].map(
    (url) => [['tnl', 'a', `https://${url}`], /^MIDJOURNEY_BASE_URL must be a URL without user name/] as const,
  ),
] as const)('%j stops the start', (env, message) => {
  expect(() => open(...(env as unknown as Parameters<typeof open>))).toThrow(message);
});
