import { afterEach, beforeEach, expect, test } from 'vitest';
import type { JobOutput } from '../../core/job.ts';
import { signLink } from '../../core/link-signature.ts';
import type { PresentedTask } from '../../core/responses.ts';
import { DAY, SECOND } from '../../core/time.ts';
import { type TestService, testService } from '../../test/support/test-api.ts';
import { insertTask, newTask } from '../../test/support/test-store.ts';

let service: TestService;
beforeEach(async () => {
  service = await testService();
});
afterEach(() => service.close());

/** @param change of the output that the worker reports @returns a task that has succeeded */
async function finish(change = (output: JobOutput): JobOutput => output) {
  const { id } = await (await service.post({ prompt: 'a secret "lighthouse"' })).json();
  const job = await service.take(id);
  service.report(job.id, { output: change(await service.finish(id, job.id)) });
  return (await service.until(id, ({ status }) => status === 'succeeded')) as PresentedTask & { share_link: string };
}

/** The contents of the page's meta elements, by name. */
function metaOf(html: string): Record<string, string> {
  const found = html.matchAll(/<meta (?:property|name)="([^"]+)" content="([^"]*)">/g);
  return Object.fromEntries([...found].map(([, name, content]) => [name, content!.replaceAll('&amp;', '&')]));
}

test('the page of a clip has a player and tags for messengers, and needs no API key', async () => {
  const { share_link } = await finish();
  await service.key(); // from now on the service needs keys
  const response = await fetch(share_link);
  expect([response.status, response.headers.get('x-robots-tag')]).toEqual([200, 'noindex']);
  const html = await response.text();
  const meta = metaOf(html);
  expect(meta).toMatchObject({
    robots: 'noindex',
    'twitter:card': 'summary_large_image',
    'og:title': 'A clip of 2.3 s',
    'og:video:type': 'video/mp4',
    'og:video:width': '512',
    'og:video:height': '288',
  });
  expect(html).not.toContain('lighthouse');
  const files = await Promise.all([meta['og:video']!, meta['og:image']!].map((link) => fetch(link)));
  expect(files.map(({ headers }) => headers.get('content-type'))).toEqual(['video/mp4', 'image/jpeg']);
  expect(new URL(meta['og:video']!).searchParams.get('expires')).toBe(new URL(share_link).searchParams.get('expires'));
});

test('without a poster the page shows the small picture, and without that the whole one', async () => {
  const imageOf = async ({ share_link }: { share_link: string }) =>
    new URL(metaOf(await (await fetch(share_link)).text())['og:image']!).pathname;
  const withoutPoster = ({ videos, ...output }: JobOutput) => ({
    ...output,
    videos: videos.map(({ poster, ...video }) => video),
  });
  expect(await imageOf(await finish(withoutPoster))).toMatch(/\/still\.jpg$/);
  const older = await finish((output) => {
    const { still_preview, ...others } = withoutPoster(output);
    return others;
  });
  expect(await imageOf(older)).toMatch(/\/still\.png$/);
});

test('no link can be signed with what RunPod knows, nor for a task without a secret', async () => {
  const { id } = await finish();
  const { status, output, still, callback_token } = (await service.store.get(id))!;
  const old = newTask({ status, output, still, share_secret: null });
  await insertTask(service.store, old);
  expect((await service.status(old.id)).videos).toHaveLength(1);
  expect(await service.status(old.id)).not.toHaveProperty('share_link');
  const expires = Math.floor(Date.now() / 1000) + 60;
  for (const task of [id, old.id]) {
    for (const secret of [callback_token, old.callback_token, '', 'null']) {
      const signature = signLink(secret, `clip/${task}`, expires);
      expect((await fetch(`${service.url}/clip/${task}?expires=${expires}&signature=${signature}`)).status).toBe(403);
    }
  }
});

test('a link is valid for its clip and its time only', async () => {
  const [one, other] = [await finish(), await finish()];
  const wrong = (change: (url: URL) => void) => {
    const url = new URL(one.share_link);
    change(url);
    return url;
  };
  for (const url of [
    wrong((url) => url.searchParams.set('expires', String(Number(url.searchParams.get('expires')) + 1))),
    wrong((url) => url.searchParams.delete('signature')),
    wrong((url) => {
      url.pathname = `/clip/${other.id}`;
    }),
    wrong((url) => {
      url.pathname = '/clip/%00';
    }),
  ])
    expect((await fetch(url)).status, url.href).toBe(403);
  service.clock.ahead += DAY + SECOND;
  expect((await fetch(one.share_link)).status).toBe(403);
});

test('the page of a deleted clip says so', async () => {
  const { id, share_link } = await finish();
  await fetch(`${service.url}/delete?id=${id}`, { method: 'POST' });
  const response = await fetch(share_link);
  expect(response.status).toBe(404);
  expect(await response.text()).toContain('This clip was deleted.');
});
