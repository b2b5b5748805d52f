/**
 * A stand-in for the Hugging Face hub, as far as downloading a model needs it: model info, the list of files in pages, `resolve`,
 * the gate of a licence, and a CDN at another origin to which large files are redirected. Tests switch its faults.
 */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { getRequestListener } from '@hono/node-server';
import { type Context, Hono } from 'hono';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import parseRange from 'range-parser';

/** Of an account that has accepted the licence, of one that has not, and one that is not for such repositories. No others are known. */
export const TOKENS = { accepted: 'hf_accepted', notAccepted: 'hf_notaccepted', narrow: 'hf_narrow' };
/** A tag of the one commit, beside the branch main. */
export const TAG = 'v1.0';

const LARGE = /\.safetensors$/; // what is kept by LFS, and so at the CDN

export interface HubOptions {
  /** ORG/NAME */
  repository: string;
  /** whose files are served */
  folder: string;
  /** more files, or others in their place, by path */
  extraFiles?: Record<string, string | Uint8Array>;
  /** whether files are only for those who have accepted the licence */
  gated?: boolean;
}

export interface HubFile {
  bytes: Buffer;
  /** its name among a cache's blobs: the sha256 of large files, git's id of small ones */
  etag: string;
}

export interface HubRequest {
  origin: 'hub' | 'cdn';
  /** with the query */
  path: string;
  range: string | undefined;
  authorization: string | undefined;
}

/** All of them off at first. */
export interface Faults {
  /** what the hub, and what the CDN, answers to the next requests */
  status: { hub: ContentfulStatusCode[]; cdn: number[] };
  /** after how many bytes the CDN falls silent, once; `cut` then breaks the connection */
  stopAfter: number | undefined;
  /** what the CDN makes of the next requests for a part: sends the whole, answers 416, or sends another part than was asked for */
  ranges: ('ignore' | 'refuse' | 'mistake')[];
  /** how many of the next files from the CDN have one wrong byte, their last */
  corrupt: number;
  /** the origin that has the list's next pages, if another */
  nextPages: string | undefined;
  /** what the list says instead */
  list: (entry: TreeEntry) => TreeEntry | undefined;
}

export interface TreeEntry {
  type: 'file' | 'directory';
  path: string;
  size: number;
  oid: string;
  lfs?: { oid: string; size: number; pointerSize: number };
}

export type LocalHub = Awaited<ReturnType<typeof startHub>>;

/** Starts the hub and its CDN on loopback. */
export async function startHub({ repository, folder, extraFiles = {}, gated = false }: HubOptions) {
  const paths = readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
  const contents = new Map(paths.map((path) => [path.slice(folder.length + 1), readFileSync(path)]));
  for (const [path, content] of Object.entries(extraFiles)) contents.set(path, Buffer.from(content));
  const files = new Map<string, HubFile>(
    [...contents].map(([path, bytes]) => [path, { bytes, etag: LARGE.test(path) ? sha256(bytes) : gitId(bytes) }]),
  );
  const commit = sha1([...files].map(([path, { etag }]) => `${path} ${etag}\n`).join(''));
  const faults: Faults = {
    status: { hub: [], cdn: [] },
    stopAfter: undefined,
    ranges: [],
    corrupt: 0,
    nextPages: undefined,
    list: (entry) => entry,
  };
  const requests: HubRequest[] = [];
  const stopped: ServerResponse[] = [];

  // The hub.
  const app = new Hono();

  app.use(async (c, next) => {
    const status = faults.status.hub.shift();
    if (status) return c.text('not now', status);
    await next();
  });

  // A token that the hub does not know is refused even where none would be needed.
  app.use('/api/models/*', async (c, next) => {
    if (token(c) && !Object.values(TOKENS).includes(token(c)!))
      return refuse(c, 401, undefined, 'Invalid credentials in Authorization header');
    await next();
  });

  for (const path of ['/api/models/:org/:name', '/api/models/:org/:name/revision/:revision'])
    app.get(path, (c) => {
      const wrong = unknown(c);
      if (wrong) return wrong;
      return c.json({
        _id: '0123456789abcdef01234567',
        id: repository,
        sha: commit,
        private: false,
        gated: gated ? 'auto' : false,
        downloads: 0,
        likes: 0,
        lastModified: '2024-07-10T11:43:18.000Z',
        siblings: [...files.keys()].map((rfilename) => ({ rfilename })),
      });
    });

  app.get('/api/models/:org/:name/tree/:revision', (c) => {
    const wrong = unknown(c);
    if (wrong) return wrong;
    const all = tree(files)
      .filter(({ path }) => c.req.query('recursive') === 'true' || !path.includes('/'))
      .map(faults.list)
      .filter((entry) => entry !== undefined);
    const from = Number(c.req.query('cursor') ?? 0);
    const next = new URL(c.req.path, faults.nextPages ?? url);
    next.search = new URLSearchParams({ ...c.req.query(), cursor: String(from + PAGE) }).toString();
    if (from + PAGE < all.length) c.header('link', `<${next}>; rel="next"`);
    return c.json(all.slice(from, from + PAGE));
  });

  app.get('/:org/:name/resolve/:revision/:path{.+}', (c) => {
    const wrong = unknown(c) ?? closedGate(c);
    if (wrong) return wrong;
    const path = c.req.param('path');
    const file = files.get(path);
    if (!file) return refuse(c, 404, 'EntryNotFound', 'Entry not found');
    c.header('x-repo-commit', commit);
    c.header('x-linked-size', String(file.bytes.length));
    c.header('x-linked-etag', `"${file.etag}"`);
    if (!LARGE.test(path)) return c.redirect(`/api/resolve-cache/models/${repository}/${commit}/${path}`, 307);
    return c.redirect(`${cdnUrl}/${file.etag}?Expires=1&Signature=s`, 302);
  });

  app.get('/api/resolve-cache/models/:org/:name/:revision/:path{.+}', (c) => {
    const wrong = unknown(c) ?? closedGate(c);
    if (wrong) return wrong;
    const file = files.get(c.req.param('path'))!;
    return c.body(new Uint8Array(file.bytes), 200, {
      etag: `"${file.etag}"`,
      'content-length': String(file.bytes.length),
      'x-repo-commit': commit,
    });
  });

  const token = (c: Context) => c.req.header('authorization')?.replace(/^Bearer /, '');

  /** What the hub says where there is no such repository or revision. */
  function unknown(c: Context) {
    const { org, name, revision = 'main' } = c.req.param() as Record<string, string>;
    if (`${org}/${name}` !== repository) {
      const [status, message] = token(c) ? [404, 'Repository not found'] : [401, 'Invalid username or password.'];
      return refuse(c, status, 'RepoNotFound', message);
    }
    if (!['main', TAG, commit].includes(revision))
      return refuse(c, 404, 'RevisionNotFound', `Invalid rev id: ${revision}`);
  }

  /** A token that the hub doesn't know is here as good as none. */
  function closedGate(c: Context) {
    if (!gated || token(c) === TOKENS.accepted) return;
    const start = `Access to model ${repository} is restricted`;
    if (token(c) === TOKENS.notAccepted)
      return refuse(c, 403, 'GatedRepo', `${start} and you are not in the authorized list.`);
    if (token(c) === TOKENS.narrow)
      return refuse(
        c,
        403,
        undefined,
        'Please enable access to public gated repositories in your fine-grained token settings',
      );
    return refuse(c, 401, 'GatedRepo', `${start}. You must have access to it and be authenticated to access it.`);
  }

  // The CDN.
  function answerFile(request: IncomingMessage, response: ServerResponse) {
    const status = faults.status.cdn.shift();
    if (status) return void response.writeHead(status).end();
    if (request.headers.authorization) return void response.writeHead(400).end(); // its links are signed already
    const etag = request.url!.slice(1).split('?')[0];
    let bytes = [...files.values()].find((file) => file.etag === etag)?.bytes;
    if (!bytes) return void response.writeHead(403).end();
    if (faults.corrupt > 0) {
      faults.corrupt--;
      bytes = Buffer.from(bytes);
      bytes[bytes.length - 1]! ^= 1;
    }
    const fault = request.headers.range && faults.ranges.shift();
    const range = fault === 'ignore' ? undefined : fault === 'mistake' ? 'bytes=0-' : request.headers.range;
    const ranges = fault === 'refuse' ? -1 : range && parseRange(bytes.length, range);
    if (ranges === -1) return void response.writeHead(416, { 'content-range': `bytes */${bytes.length}` }).end();
    const part = Array.isArray(ranges) ? ranges[0] : undefined;
    const body = part ? bytes.subarray(part.start, part.end + 1) : bytes;
    response.writeHead(part ? 206 : 200, {
      etag: '"not-the-hash"',
      'accept-ranges': 'bytes',
      'content-length': body.length,
      ...(part && { 'content-range': `bytes ${part.start}-${part.end}/${bytes.length}` }),
    });
    const { stopAfter } = faults;
    if (request.method === 'HEAD') return void response.end();
    if (stopAfter === undefined || stopAfter >= body.length) return void response.end(body);
    faults.stopAfter = undefined;
    stopped.push(response);
    response.write(body.subarray(0, stopAfter));
  }

  const [url, closeHub] = await listen('hub', getRequestListener(app.fetch));
  const [cdnUrl, closeCdn] = await listen('cdn', answerFile);

  async function listen(
    origin: HubRequest['origin'],
    answer: (request: IncomingMessage, response: ServerResponse) => unknown,
  ) {
    const server = createServer((request, response) => {
      const { range, authorization } = request.headers;
      requests.push({ origin, path: request.url!, range, authorization });
      answer(request, response);
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const close = () => {
      server.close();
      server.closeAllConnections();
    };
    return [`http://127.0.0.1:${(server.address() as AddressInfo).port}`, close] as const;
  }

  return {
    url,
    cdnUrl,
    commit,
    files,
    faults,
    /** every request, to both origins */
    requests,
    /** Breaks the connections that have fallen silent. */
    closeStalled() {
      for (const response of stopped.splice(0)) response.destroy();
    },
    close() {
      closeHub();
      closeCdn();
    },
  };
}

const PAGE = 5; // entries

/** The list of files as the hub gives it, folders among them. */
function tree(files: Map<string, HubFile>): TreeEntry[] {
  const folders = new Set([...files.keys()].filter((path) => path.includes('/')).map((path) => path.split('/')[0]!));
  return [
    ...[...folders].map((path) => ({ type: 'directory' as const, path, size: 0, oid: sha1(path) })),
    ...[...files].map(([path, { bytes, etag }]) => {
      const entry = { type: 'file' as const, path, size: bytes.length };
      if (!LARGE.test(path)) return { ...entry, oid: etag };
      const pointer = `version https://git-lfs.github.com/spec/v1\noid sha256:${etag}\nsize ${bytes.length}\n`;
      const lfs = { oid: etag, size: bytes.length, pointerSize: pointer.length };
      return { ...entry, oid: gitId(Buffer.from(pointer)), lfs };
    }),
  ];
}

function refuse(c: Context, status: number, code: string | undefined, message: string) {
  if (code) c.header('x-error-code', code);
  c.header('x-error-message', message);
  return c.json({ error: message }, status as ContentfulStatusCode);
}

const sha1 = (data: string | Uint8Array) => createHash('sha1').update(data).digest('hex');
const sha256 = (data: Uint8Array) => createHash('sha256').update(data).digest('hex');
const gitId = (data: Uint8Array) => sha1(Buffer.concat([Buffer.from(`blob ${data.length}\0`), data]));
