import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { endpoint } from '../http/endpoint.ts';
import { pagePolicy, serveFiles, staticFile } from '../http/static-files.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const folder = join(root, 'api/page');
const fonts = join(createRequire(import.meta.url).resolve('@fontsource/inter/package.json'), '../files');
/** Modules that the page shares with other code. Each URL is the path in the repository, so that relative imports resolve. */
const SHARED_MODULES = ['client/events.js', 'client/sleep.js', 'core/retry-after.js'];

/** The web page and the files that it needs. Its policy allows nothing from other sites. */
export const page = endpoint({
  method: 'GET',
  path: ['/', '/page/*', '/client/*', '/core/*'],
  handle({ linkOrigin }) {
    const policy = pagePolicy(
      "font-src 'self'",
      `connect-src 'self' ${linkOrigin}`, // a download is fetched
      `media-src 'self' ${linkOrigin}`,
      `img-src 'self' blob: ${linkOrigin}`, // blob: the chosen picture
    );
    const own = readdirSync(folder).map((name) => join(folder, name));
    const inter = [400, 500, 600].map((weight) => join(fonts, `inter-latin-${weight}-normal.woff2`));
    const paths = [
      ['/', join(folder, 'index.html')],
      ...[...own, ...inter].map((path) => [`/page/${basename(path)}`, path]),
      ...SHARED_MODULES.map((path) => [`/${path}`, join(root, path)]),
    ] as [url: string, path: string][];
    return serveFiles(new Map(paths.map(([url, path]) => [url, staticFile(path, readFileSync(path), policy)])));
  },
});
