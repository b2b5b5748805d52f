/** For tests: URLs that must not be fetched, because they lead to private addresses, other services or other protocols. */
import { readFileSync } from 'node:fs';

interface RefusedUrl {
  url: string;
  /** the code that a job with this URL ends with */
  job: 'image_rejected' | 'invalid_input';
}

/** Hosts are separated by spaces. Both are grouped by why they are refused. */
const { hosts, urls }: { hosts: Record<string, string>; urls: Record<string, RefusedUrl[]> } = JSON.parse(
  readFileSync(new URL('testdata/malicious-urls.json', import.meta.url), 'utf8'),
);

/** Hosts of URLs that are refused without asking DNS, in every spelling that is known. */
export const refusedHosts = Object.values(hosts).flatMap((group) => group.split(' '));

/** Whole URLs. The API refuses them all with 422. */
export const refusedUrls: RefusedUrl[] = [
  ...refusedHosts.map((host) => ({ url: `http://${host}/picture.png`, job: 'image_rejected' as const })),
  ...Object.values(urls).flat(),
];
