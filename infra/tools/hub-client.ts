/** The Hugging Face hub, as much of it as `npm run models` asks for. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { listFiles, modelInfo } from '@huggingface/hub';
import { EnvHttpProxyAgent, fetch as httpFetch } from 'undici';
import { SECOND } from '../../core/time.ts';
import { hubHome } from '../../handler/models/weights.ts';

export interface RemoteFile {
  path: string;
  size: number;
  /** sha256 of what LFS keeps, else git's id; a cache's blobs are named so */
  etag: string;
}

/** What may be cured by trying again: a broken connection, a server that is busy. */
export class Passing extends Error {}

export interface HubOptions {
  env: NodeJS.ProcessEnv;
  /** before each new try, when several in a row have brought nothing; milliseconds */
  waits: number[];
  /** how long a connection may be silent; milliseconds */
  silence: number;
  /** told why there is a wait */
  say: (text: string) => void;
}

/** Tries again after what may pass, with growing waits that begin anew when something has arrived meanwhile. */
export async function persist<T>(
  work: () => Promise<T>,
  {
    waits,
    say,
    arrived = async () => 0,
    pause = delay,
  }: {
    waits: number[];
    say: (text: string) => void;
    arrived?: () => Promise<number>;
    pause?: (milliseconds: number) => Promise<unknown>;
  },
): Promise<T> {
  let most = await arrived();
  let failures = 0;
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof Passing)) throw error;
      const now = await arrived();
      if (now > most) failures = 0;
      most = Math.max(most, now);
      const wait = waits[failures++];
      if (wait === undefined) throw error;
      say(`${error.message}; next try in ${wait / SECOND} s`);
      await pause(wait);
    }
  }
}

export type Hub = ReturnType<typeof openHub>;

/** The hub's side of one repository. Every failure is one line, and Passing where it may pass. */
export function openHub(repository: string, { env, waits, silence, say }: HubOptions) {
  const address = (env.HF_ENDPOINT || 'https://huggingface.co').replace(/\/+$/, '');
  if (!/^https?:\/\//.test(address) || !URL.canParse(address))
    throw new Error('HF_ENDPOINT must be an http or https address');
  const { origin, host } = new URL(address);
  const { token, from: tokenFrom } = readToken(env);
  const page = `https://huggingface.co/${repository}`;
  const proxy = (name: string) => env[name.toLowerCase()] ?? env[name] ?? '';
  const agent = new EnvHttpProxyAgent({
    httpProxy: proxy('HTTP_PROXY'),
    httpsProxy: proxy('HTTPS_PROXY'),
    noProxy: proxy('NO_PROXY'),
    connect: { timeout: 10 * SECOND },
    headersTimeout: silence,
    bodyTimeout: silence,
  });

  /** An answer with a body. The token goes to the hub only: `fetch` drops it where a redirect leads to another origin. */
  async function get(url: string, headers: Record<string, string> = {}) {
    const response = await httpFetch(url, {
      dispatcher: agent,
      headers: {
        ...headers,
        'user-agent': 'text-to-video-api',
        ...(token && new URL(url).origin === origin && { authorization: `Bearer ${token}` }),
      },
    }).catch((cause) => {
      throw new Passing(`${new URL(url).host} can’t be reached (${reason(cause)})`, { cause });
    });
    if (response.ok || response.status === 416) return response;
    await response.body?.cancel();
    throw refusal(response.status, response.headers, new URL(response.url));
  }

  function refusal(status: number, headers: { get(name: string): string | null }, url: URL): Error {
    const code = headers.get('x-error-code');
    const message = headers.get('x-error-message');
    // Links to the CDN run out, and the hub gives a new one at the next try.
    const mayPass = url.origin !== origin || status >= 500 || status === 429 || status === 408;
    if (mayPass) return new Passing(`${url.host} answers with status ${status}`);
    if (status === 401 && token)
      return new Error(
        `${host} refuses the token from ${tokenFrom}: set HF_TOKEN to a valid one (https://huggingface.co/settings/tokens) of an account that has accepted the licence at ${page}`,
      );
    if (status === 401 && code === 'GatedRepo')
      return new Error(
        `${repository} is only for those who accept its licence: do so at ${page}, then set HF_TOKEN to a token of that account (https://huggingface.co/settings/tokens)`,
      );
    if (status === 403 && code === 'GatedRepo')
      return new Error(`the token from ${tokenFrom} is good, but its account has not accepted the licence at ${page}`);
    return new Error(
      `${host} answers with status ${status} for ${repository}: ${message ?? code ?? 'no reason given'}`,
    );
  }

  /** `get` for the library, which wants the whole answer. */
  const libraryFetch = async (url: string | URL | Request) => {
    const read = async () => {
      const response = await get(String(url), { accept: 'application/json' });
      const text = await response.text().catch((cause) => {
        throw new Passing(`the connection to ${host} broke`, { cause });
      });
      return new Response(text, { headers: { link: response.headers.get('link') ?? '' } });
    };
    return persist(read, { waits, say });
  };
  const common = { hubUrl: address, fetch: libraryFetch };

  /** @throws Error where an answer is not what the hub's would be, as from a hotel's login page */
  async function understood<T>(work: Promise<T>, isRight: (answer: T) => boolean): Promise<T> {
    const strange = (cause?: unknown) =>
      new Error(`${address} does not answer as the Hugging Face hub does`, { cause });
    const answer = await work.catch((error) => {
      throw error instanceof SyntaxError || error instanceof TypeError ? strange(error) : error;
    });
    if (!isRight(answer)) throw strange();
    return answer;
  }

  return {
    /** The commit that a revision names. */
    async commit(revision: string): Promise<string> {
      const info = modelInfo({ ...common, name: repository, revision, additionalFields: ['sha'] });
      return (await understood(info, ({ sha }) => /^[0-9a-f]{40}$/.test(sha))).sha;
    },

    async list(commit: string): Promise<RemoteFile[]> {
      async function collect() {
        const files: RemoteFile[] = [];
        const entries = listFiles({ ...common, repo: repository, recursive: true, revision: commit });
        for await (const { type, path, size, oid = '', lfs } of entries)
          if (type === 'file') files.push({ path, size: lfs?.size ?? size, etag: lfs?.oid ?? oid });
        return files;
      }
      const isRight = ({ size, etag }: RemoteFile) =>
        Number.isSafeInteger(size) && /^[0-9a-f]{40}([0-9a-f]{24})?$/.test(etag);
      return understood(collect(), (files) => files.every(isRight));
    },

    /** A file's bytes from a position on; or all of them, or status 416, where the server does not do that. */
    async file(commit: string, path: string, position: number) {
      const range = position > 0 && { range: `bytes=${position}-` };
      return get(`${address}/${repository}/resolve/${commit}/${encodeURI(path)}`, {
        'accept-encoding': 'identity',
        ...range,
      });
    },

    close: () => agent.destroy(),
  };
}

/** HF_TOKEN, or what Hugging Face's `login` has left. */
function readToken(env: NodeJS.ProcessEnv): { token?: string; from?: string } {
  if (env.HF_TOKEN) return { token: env.HF_TOKEN, from: 'HF_TOKEN' };
  const path = env.HF_TOKEN_PATH || join(hubHome(env), 'token');
  try {
    return { token: readFileSync(path, 'utf8').trim(), from: path };
  } catch {
    return {}; // nobody has logged in here
  }
}

/** Why there was no answer, in as few words as the system has for it. */
function reason(error: unknown): string {
  const { code, message, cause } = error as NodeJS.ErrnoException;
  return cause ? reason(cause) : (code ?? message);
}
