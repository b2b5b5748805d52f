import { expect, test } from 'vitest';
import { readConfig } from './config.ts';

const read = (DATABASE_URL: string) =>
  readConfig({ RUNPOD_API_KEY: 'x', RUNPOD_ENDPOINT_ID: 'x', DATA_DIR: 'here', DATABASE_URL }).databaseUrl;

test('DATABASE_URL is a libSQL file or a PostgreSQL database', () => {
  expect(read('')).toBe('file:here/tasks.db');
  for (const url of ['file:a.db', 'postgres://u:p@h/d', 'postgresql:///d?host=/run/postgresql'])
    expect(read(url)).toBe(url);
  for (const url of ['mysql://h/d', 'libsql://h', 'a.db', 'postgres:h'])
    expect(() => read(url)).toThrow(/^DATABASE_URL must be a libSQL file.* or postgres:/);
});
