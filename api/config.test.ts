import { pathToFileURL } from 'node:url';
import { expect, test } from 'vitest';
import { readConfig } from './config.ts';

const read = (DATABASE_URL: string) =>
  readConfig({ RUNPOD_API_KEY: 'x', RUNPOD_ENDPOINT_ID: 'x', DATA_DIR: 'here', DATABASE_URL }).databaseUrl;

test('DATABASE_URL is a libSQL file or a PostgreSQL database', () => {
  expect(read('')).toBe(pathToFileURL('here/tasks.db').href);
  for (const url of ['file:a.db', 'file:/C#/100%25.db', 'postgres://u:p@h/d', 'postgresql:///d?host=/run/postgresql'])
    expect(read(url)).toBe(url);
  for (const url of ['mysql://h/d', 'libsql://h', 'a.db', 'postgres:h', 'file:100%.db', 'file:%E9.db'])
    expect(() => read(url)).toThrow(/^DATABASE_URL must be a libSQL file.* or postgres:/);
});

test('links begin with PUBLIC_URL, or an address that this machine can open', () => {
  const publicUrl = (env: Record<string, string>) =>
    readConfig({ RUNPOD_API_KEY: 'x', RUNPOD_ENDPOINT_ID: 'x', ...env }).publicUrl;
  expect(publicUrl({})).toBe('http://127.0.0.1:5000');
  expect(publicUrl({ HOST: '0.0.0.0', PORT: '80' })).toBe('http://127.0.0.1:80');
  expect(publicUrl({ HOST: '::' })).toBe('http://[::1]:5000');
  expect(publicUrl({ HOST: 'fd00::7' })).toBe('http://[fd00::7]:5000');
  expect(publicUrl({ HOST: '0.0.0.0', PUBLIC_URL: 'https://a.example' })).toBe('https://a.example');
  expect(publicUrl({ HOST: '0.0.0.0', RUNPOD_POD_ID: 'a1' })).toBe('https://a1-5000.proxy.runpod.net');
  expect(publicUrl({ PUBLIC_URL: 'https://A.example:8443/' })).toBe('https://A.example:8443');
  for (const PUBLIC_URL of ['https://a.example/video', 'https://a.example/?a=b', 'a.example'])
    expect(() => publicUrl({ PUBLIC_URL })).toThrow(/^PUBLIC_URL must /);
  expect(publicUrl({ PORT: '8000', RUNPOD_POD_ID: 'a1' })).toBe('https://a1-8000.proxy.runpod.net');
});

test('prices are decimal numbers, and CURRENCY three capital letters', () => {
  const prices = (env: Record<string, string>) =>
    readConfig({ RUNPOD_API_KEY: 'x', RUNPOD_ENDPOINT_ID: 'x', ...env }).prices;
  expect(prices({})).toEqual({ currency: 'USD', perGpuSecond: 0n, perStill: 0n });
  const given = { PRICE_PER_GPU_SECOND: '0.00034', PRICE_PER_STILL: '100000', CURRENCY: 'EUR' };
  const [perGpuSecond, perStill] = [340_000_000n, 100_000n * 10n ** 12n];
  expect(prices(given)).toEqual({ currency: 'EUR', perGpuSecond, perStill });
  for (const wrong of ['-1', '1e-3', '0,5', 'free', '100.000000000001'])
    expect(() => prices({ PRICE_PER_GPU_SECOND: wrong })).toThrow(
      /^PRICE_PER_GPU_SECOND must be a decimal number from 0 to 100,/,
    );
  expect(() => prices({ PRICE_PER_STILL: '100001', CURRENCY: 'usd' })).toThrow(
    /PRICE_PER_STILL must be .* 0 to 100000,.*; CURRENCY must be three capital letters/,
  );
});
