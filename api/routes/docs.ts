import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { openPages } from '../docs/pages.ts';
import { endpoint } from '../http/endpoint.ts';
import { lazyFile, pagePolicy, serveFiles, staticFile } from '../http/static-files.ts';

const DOCS = new URL('../../docs/', import.meta.url);
const require = createRequire(import.meta.url);

const POLICY = pagePolicy("font-src 'self'", "connect-src 'self'", "img-src 'self' data:"); // data: the pictures in Swagger UI's stylesheet
/** A drawing contains its styles. */
const PICTURE_POLICY = "default-src 'none'; style-src 'unsafe-inline'";

/** The documentation's pages and the files that they need. */
export const docs = endpoint({
  method: 'GET',
  path: ['/docs', '/docs/*', '/llms.txt'],
  handle({ config }) {
    const pages = openPages(config.publicUrl);
    const files = new Map(
      pages.urls.map((url) => [url, lazyFile(() => staticFile('page.html', pages.render(url), POLICY))]),
    );
    files.set(
      '/docs/search.json',
      lazyFile(() => staticFile('search.json', JSON.stringify(pages.index()), POLICY)),
    );
    files.set(
      '/llms.txt',
      lazyFile(() => staticFile('llms.txt', pages.llmsTxt(), POLICY)),
    );
    const add = (name: string, path: string | URL, policy = POLICY) =>
      files.set(`/docs/${name}`, staticFile(name, readFileSync(path), policy));
    for (const name of readdirSync(DOCS, { recursive: true, encoding: 'utf8' }))
      if (/\.(svg|webp)$/.test(name)) add(name, new URL(name, DOCS), PICTURE_POLICY);
    for (const name of ['docs.css', 'docs.js', 'search.js', 'reference.js'])
      add(name, new URL(`../docs/${name}`, import.meta.url));
    for (const name of ['swagger-ui.css', 'swagger-ui-bundle.js'])
      add(name, require.resolve(`swagger-ui-dist/${name}`));
    return serveFiles(files);
  },
});
