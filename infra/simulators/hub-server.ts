/**
 * A simulator of the Hugging Face hub, for downloading models: model info, the paginated list of files, `resolve`, access to a gated
 * repository, and a CDN at another origin that large files are redirected to. Tests inject faults.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import type { RequestListener, ServerResponse } from 'node:http';
import { join, relative } from 'node:path';
import { getRequestListener } from '@hono/node-server';
import { type Context, Hono } from 'hono';
import { HTTPException } from 'hono/http-exception';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import parseRange from 'range-parser';
import { serveOnLoopback } from './loopback.ts';

/** The only valid ones: of an account with access, of one without, and one whose permissions exclude gated repositories. */
export const TOKENS = { accepted: 'hf_accepted', notAccepted: 'hf_notaccepted', narrow: 'hf_narrow' };
/** A tag of the one commit, which is also the branch main. */
export const TAG = 'v1.0';

const LARGE = /\.safetensors$/; // kept in LFS, and so on the CDN
const PAGE_SIZE = 5;

export interface HubOptions {
  /** ORG/NAME */
  repository: string;
  /** whose files are served */
  folder: string;
  /** more files by path; they replace the folder's */
  extraFiles?: Record<string, string | Uint8Array>;
  /** whether only accounts with access get files */
  gated?: boolean;
  /** files of a second, public repository */
  second?: { repository: string; files: Record<string, string | Uint8Array> };
}

interface HubFile {
  bytes: Buffer;
  /** its name among a cache's blobs: the SHA-256 of large files, git's id of small ones */
  etag: string;
}

/** All are off at first. Tests change them in place. */
const noFaults = () => ({
  /** statuses of the next answers of the hub and of the CDN */
  status: { hub: [] as ContentfulStatusCode[], cdn: [] as number[] },
  /** the next answer of the CDN stalls after this many bytes; `closeStalled` then breaks its connection */
  stopAfter: undefined as number | undefined,
  /** what the CDN does to the next requests with a range: sends the whole file, answers 416, or sends another range */
  ranges: [] as ('ignore' | 'refuse' | 'mistake')[],
  /** how many of the next files from the CDN have a wrong last byte */
  corrupt: 0,
  /** another origin for the next pages of the list */
  nextPages: undefined as string | undefined,
  /** changes the entries of the list, or removes them */
  list: (entry: TreeEntry) => entry as TreeEntry | undefined,
});
type Faults = ReturnType<typeof noFaults>;
type TreeEntry = ReturnType<typeof listTree>[number];

/** A repository, at its one commit. */
interface Repository {
  name: string;
  gated: boolean;
  files: Map<string, HubFile>;
  commit: string;
}

export type LocalHub = Awaited<ReturnType<typeof startHub>>;

/** Starts the hub and its CDN on loopback. */
export async function startHub({ repository: name, folder, extraFiles = {}, gated = false, second }: HubOptions) {
  const first = commitFiles(name, { ...readFolder(folder), ...extraFiles }, gated);
  const { files, commit } = first;
  const repositories = [first, ...(second ? [commitFiles(second.repository, second.files, false)] : [])];
  const faults = noFaults();
  const requests: { origin: 'hub' | 'cdn'; path: string; range?: string; authorization?: string }[] = [];
  const stalled: ServerResponse[] = [];
  const serve = (origin: 'hub' | 'cdn', listener: RequestListener) =>
    serveOnLoopback((request, response) => {
      const { range, authorization } = request.headers;
      requests.push({ origin, path: request.url!, ...(range && { range }), ...(authorization && { authorization }) });
      listener(request, response);
    });
  const cdn = await serve(
    'cdn',
    cdnListener(
      repositories.flatMap(({ files }) => [...files.values()]),
      faults,
      stalled,
    ),
  );
  const app = hubApp(repositories, cdn.url, faults);
  const hub = await serve('hub', getRequestListener(app.fetch));
  return {
    url: hub.url,
    cdnUrl: cdn.url,
    ...{ commit, files, faults },
    /** every request to either origin, in order; its path is with the query */
    requests,
    /** Breaks the connections that have stalled. */
    closeStalled() {
      for (const response of stalled.splice(0)) response.destroy();
    },
    async close() {
      await Promise.all([hub.close(), cdn.close()]);
    },
  };
}

/** https://huggingface.co/docs/hub/api */
function hubApp(repositories: Repository[], cdnUrl: string, faults: Faults) {
  const app = new Hono();

  app.use(async (c, next) => {
    const status = faults.status.hub.shift();
    if (status) return c.text('not now', status);
    await next();
  });

  // The API refuses an unknown token even for public repositories.
  app.use('/api/models/*', async (c, next) => {
    const token = readToken(c);
    if (token && !Object.values(TOKENS).includes(token))
      throw refusal(401, 'Invalid credentials in Authorization header');
    await next();
  });

  app.on('GET', ['/api/models/:org/:name', '/api/models/:org/:name/revision/:revision'], (c) => {
    const { name, gated, files, commit } = findRepository(c, repositories);
    return c.json({
      ...{ _id: '0123456789abcdef01234567', id: name, sha: commit, private: false, gated: gated ? 'auto' : false },
      ...{ downloads: 0, likes: 0, lastModified: '2024-07-10T11:43:18.000Z' },
      siblings: [...files.keys()].map((rfilename) => ({ rfilename })),
    });
  });

  app.get('/api/models/:org/:name/tree/:revision', (c) => {
    const entries = listTree(findRepository(c, repositories).files)
      .filter(({ path }) => c.req.query('recursive') === 'true' || !path.includes('/'))
      .map(faults.list)
      .filter((entry) => entry !== undefined);
    const start = Number(c.req.query('cursor') ?? 0);
    const end = start + PAGE_SIZE;
    const next = new URL(c.req.path, faults.nextPages ?? c.req.url);
    next.search = new URLSearchParams({ ...c.req.query(), cursor: String(end) }).toString();
    if (end < entries.length) c.header('link', `<${next}>; rel="next"`);
    return c.json(entries.slice(start, end));
  });

  app.get('/:org/:name/resolve/:revision/:path{.+}', (c) => {
    const path = c.req.param('path');
    const { name, commit, file } = findFile(c, repositories);
    const { bytes, etag } = file;
    c.header('x-repo-commit', commit);
    c.header('x-linked-size', String(bytes.length));
    c.header('x-linked-etag', `"${etag}"`);
    if (!LARGE.test(path)) return c.redirect(`/api/resolve-cache/models/${name}/${commit}/${path}`, 307);
    return c.redirect(`${cdnUrl}/${etag}?Expires=1&Signature=s`, 302);
  });

  app.get('/api/resolve-cache/models/:org/:name/:revision/:path{.+}', (c) => {
    const { commit, file } = findFile(c, repositories);
    const { bytes, etag } = file;
    const headers = { etag: `"${etag}"`, 'content-length': String(bytes.length), 'x-repo-commit': commit };
    return c.body(new Uint8Array(bytes), 200, headers);
  });

  return app;
}

const readToken = (c: Context) => c.req.header('authorization')?.replace(/^Bearer /, '');

function refusal(status: ContentfulStatusCode, message: string, code?: string) {
  const headers = { 'x-error-message': message, ...(code && { 'x-error-code': code }) };
  return new HTTPException(status, { res: Response.json({ error: message }, { status, headers }) });
}

/** @throws HTTPException where the path names another repository or revision */
function findRepository(c: Context, repositories: Repository[]): Repository {
  const { org, name, revision = 'main' } = c.req.param() as Record<string, string>;
  const repository = repositories.find((one) => one.name === `${org}/${name}`);
  if (!repository)
    throw readToken(c)
      ? refusal(404, 'Repository not found', 'RepoNotFound')
      : refusal(401, 'Invalid username or password.', 'RepoNotFound');
  if (!['main', TAG, repository.commit].includes(revision))
    throw refusal(404, `Invalid rev id: ${revision}`, 'RevisionNotFound');
  return repository;
}

/** @throws HTTPException: there is no such file, or the account has no access. Here an unknown token counts as none. */
function findFile(c: Context, repositories: Repository[]): Repository & { file: HubFile } {
  const repository = findRepository(c, repositories);
  const token = readToken(c);
  if (repository.gated && token !== TOKENS.accepted) {
    const start = `Access to model ${repository.name} is restricted`;
    if (token === TOKENS.notAccepted)
      throw refusal(403, `${start} and you are not in the authorized list.`, 'GatedRepo');
    if (token === TOKENS.narrow)
      throw refusal(403, 'Please enable access to public gated repositories in your fine-grained token settings');
    throw refusal(401, `${start}. You must have access to it and be authenticated to access it.`, 'GatedRepo');
  }
  const file = repository.files.get(c.req.param('path')!);
  if (!file) throw refusal(404, 'Entry not found', 'EntryNotFound');
  return { ...repository, file };
}

/** Serves files by their etags, whole or a range. @param stalled gets the responses that the fault `stopAfter` has left open */
function cdnListener(files: HubFile[], faults: Faults, stalled: ServerResponse[]): RequestListener {
  return (request, response) => {
    const status = faults.status.cdn.shift();
    if (status) return void response.writeHead(status).end();
    if (request.headers.authorization) return void response.writeHead(400).end(); // its URLs are signed already
    const etag = request.url!.slice(1).split('?')[0];
    let bytes = files.find((file) => file.etag === etag)?.bytes;
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
    stalled.push(response);
    response.write(body.subarray(0, stopAfter));
  };
}

/** The files of a folder, by path. */
function readFolder(folder: string): Record<string, Uint8Array> {
  const paths = readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
  return Object.fromEntries(paths.map((path) => [relative(folder, path), readFileSync(path)]));
}

function commitFiles(name: string, contents: Record<string, string | Uint8Array>, gated: boolean): Repository {
  const entries = Object.entries(contents).map(([path, content]): [string, HubFile] => {
    const bytes = Buffer.from(content);
    return [path, { bytes, etag: LARGE.test(path) ? sha256(bytes) : gitId(bytes) }];
  });
  const commit = sha1(entries.map(([path, { etag }]) => `${path} ${etag}\n`).join(''));
  return { name, gated, files: new Map(entries), commit };
}

/** The list of files as the hub gives it, with the folders of the first level. */
function listTree(files: Map<string, HubFile>) {
  const folders = new Set([...files.keys()].filter((path) => path.includes('/')).map((path) => path.split('/')[0]!));
  return [
    ...[...folders].map((path) => ({ type: 'directory', path, size: 0, oid: sha1(path), lfs: undefined })),
    ...[...files].map(([path, { bytes, etag }]) => {
      const entry = { type: 'file', path, size: bytes.length, oid: etag, lfs: undefined };
      if (!LARGE.test(path)) return entry;
      const pointer = `version https://git-lfs.github.com/spec/v1\noid sha256:${etag}\nsize ${bytes.length}\n`;
      const lfs = { oid: etag, size: bytes.length, pointerSize: pointer.length };
      return { ...entry, oid: gitId(Buffer.from(pointer)), lfs };
    }),
  ];
}

const sha1 = (data: string | Uint8Array) => createHash('sha1').update(data).digest('hex');
const sha256 = (data: Uint8Array) => createHash('sha256').update(data).digest('hex');
const gitId = (data: Uint8Array) => sha1(Buffer.concat([Buffer.from(`blob ${data.length}\0`), data]));
