/** The addresses that a caller may give: their normal form, and what is refused before anything is stored. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type TestService, testService } from '../../test/support/test-api.ts';

let service: TestService;
beforeAll(async () => {
  service = await testService();
});
afterAll(() => service.close());

const testWebhook = (url: string) =>
  fetch(`${service.url}/webhooks/test?${new URLSearchParams({ webhook_url: url })}`, { method: 'POST' });

/** A dry run's answer to both fields. */
async function check(url: string) {
  const response = await fetch(`${service.url}/img2vid?dry_run=1`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ image_url: url, webhook_url: url }),
  });
  return { status: response.status, ...(await response.json()) };
}

test.each([
  ['HTTPS://EXAMPLE.com:443/a/../b', 'https://example.com/b'],
  ['https://example.com', 'https://example.com/'],
  [' https://example.com/x\n', 'https://example.com/x'],
  ['https://bücher.example/ä?ö=ü#ß', 'https://xn--bcher-kva.example/%C3%A4?%C3%B6=%C3%BC#%C3%9F'],
  ['https://example.com/a b"<>`', 'https://example.com/a%20b%22%3C%3E%60'],
  ['https://example.com\\x', 'https://example.com/x'],
  [`https://example.com/${'中'.repeat(225)}`, `https://example.com/${'%E4%B8%AD'.repeat(225)}`],
])('%j is shown, stored and sent as its normal form', async (given, normal) => {
  const { status, input } = await check(given);
  expect([status, input.image_url, input.webhook_url]).toEqual([200, normal, normal]);
  const { id, url } = await (await testWebhook(given)).json();
  expect([url, (await service.store.getDelivery('local', id))?.url]).toEqual([normal, normal]);
});

test.each([
  ['a NUL', 'https://example.com/\0', 'without control characters or unpaired surrogates'],
  ['a NUL in the host', 'https://exam\0ple.com/', ''],
  ['a line break', 'https://example.com/a\r\nb', 'without control characters or unpaired surrogates'],
  ['a tab', 'https://exam\tple.com/', 'without control characters or unpaired surrogates'],
  ['a C1 control character', 'https://example.com/\u0085', 'without control characters or unpaired surrogates'],
  ['a delete character', 'https://example.com/\x7f', 'without control characters or unpaired surrogates'],
  ['a lone surrogate', 'https://example.com/\ud83d', 'without control characters or unpaired surrogates'],
  ['a user name', 'https://somebody@example.com/', 'without user name and password'],
  ['a password', 'https://:secret@example.com/', 'without user name and password'],
  ['2049 characters', `https://example.com/${'a'.repeat(2029)}`, 'of at most 2048 characters'],
  [
    '2054 characters when encoded',
    `https://example.com/${'中'.repeat(226)}`,
    'of at most 2048 characters when percent-en',
  ],
  ['100,000 characters', `https://example.com/${'ü'.repeat(100_000)}`, 'of at most 2048 characters'],
])('an address with %s is 422 and names the field', async (_, url, reason) => {
  const { status, code, errors } = await check(url);
  expect([status, code]).toEqual([422, 'invalid_input']);
  expect(errors).toEqual([
    { field: 'image_url', message: expect.stringContaining(`must be an http or https URL ${reason}`.trim()) },
    { field: 'webhook_url', message: expect.stringContaining(`must be an https URL ${reason}`.trim()) },
  ]);
  if (url.length < 3000 && url.isWellFormed()) expect((await testWebhook(url)).status).toBe(422);
});
