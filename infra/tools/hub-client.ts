/** The Hugging Face hub, as far as `npm run models` needs it. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { listFiles, modelInfo } from '@huggingface/hub';
import { EnvHttpProxyAgent, fetch as httpFetch, type Response as UndiciResponse } from 'undici';
import * as v from 'valibot';
import { httpUrl, readEnvironment } from '../../core/environment.ts';
import { SECOND } from '../../core/time.ts';
import { hubHome } from '../../handler/models/weights.ts';
import { type RetryOptions, reasonOf, retry, TransientError } from './retry.ts';

const CONNECT_TIMEOUT = 10 * SECOND;

const COMMIT = v.pipe(v.string(), v.regex(/^[\da-f]{40}$/));
const REMOTE_FILE = v.object({
  path: v.string(),
  /** bytes */
  size: v.pipe(v.number(), v.safeInteger()),
  /** The sha256 of a file in LFS, git's id of any other. Blobs in the cache have this name. */
  etag: v.pipe(v.string(), v.regex(/^[\da-f]{40}([\da-f]{24})?$/)),
});
export type RemoteFile = v.InferOutput<typeof REMOTE_FILE>;

export const HUB_VARIABLES = { HF_ENDPOINT: v.optional(httpUrl, 'https://huggingface.co') };

export interface HubOptions extends RetryOptions {
  env: NodeJS.ProcessEnv;
  /** How long a connection may be silent, in milliseconds. */
  idleTimeout: number;
}

export type Hub = ReturnType<typeof openHub>;

/**
 * A client for one repository. Every failure is one line, and a TransientError where another attempt may succeed.
 * @throws Error HF_ENDPOINT is not a URL
 */
export function openHub(repository: string, { env, idleTimeout, ...retryOptions }: HubOptions) {
  const { HF_ENDPOINT: hubUrl } = readEnvironment(HUB_VARIABLES, env);
  const { origin } = new URL(hubUrl);
  const token = readToken(env);
  const dispatcher = new EnvHttpProxyAgent({
    connect: { timeout: CONNECT_TIMEOUT },
    headersTimeout: idleTimeout,
    bodyTimeout: idleTimeout,
  });

  /** The token goes to the hub only: `fetch` drops it where a redirect leads to another origin. */
  async function get(url: string, headers: Record<string, string> = {}) {
    const { host, origin: target } = new URL(url);
    const authorization = token && target === origin && { authorization: `Bearer ${token.value}` };
    const response = await httpFetch(url, {
      dispatcher,
      headers: { ...headers, 'user-agent': 'text-to-video-api', ...authorization },
    }).catch((cause) => {
      throw new TransientError(`${host} can’t be reached (${reasonOf(cause)})`, { cause });
    });
    if (response.ok || response.status === 416) return response;
    await response.body?.cancel();
    const last = new URL(response.url);
    // A link to the CDN expires, and the hub gives a new one at the next attempt.
    if (last.origin !== origin || response.status >= 500 || [408, 429].includes(response.status))
      throw new TransientError(`${last.host} answers with status ${response.status}`);
    throw new Error(explainRefusal(response, { host: last.host, repository, token }));
  }

  /** `get` for @huggingface/hub, with retries that include the body. */
  const fetchText = async (url: string | URL | Request) =>
    retry(async () => {
      const response = await get(String(url), { accept: 'application/json' });
      const text = await response.text().catch((cause) => {
        throw new TransientError(`the connection to ${new URL(hubUrl).host} broke`, { cause });
      });
      return new Response(text, { headers: { link: response.headers.get('link') ?? '' } });
    }, retryOptions);

  return {
    /** @throws Error also where the answer is not that of a hub, for example a captive portal's */
    async list(revision: string): Promise<{ commit: string; files: RemoteFile[] }> {
      const common = { hubUrl, fetch: fetchText };
      const files: unknown[] = [];
      try {
        const { sha } = await modelInfo({ ...common, name: repository, revision, additionalFields: ['sha'] });
        const commit = v.parse(COMMIT, sha);
        for await (const entry of listFiles({ ...common, repo: repository, recursive: true, revision: commit })) {
          const { type, path, size, oid, lfs } = entry;
          if (type === 'file') files.push({ path, size: lfs?.size ?? size, etag: lfs?.oid ?? oid });
        }
        return { commit, files: v.parse(v.array(REMOTE_FILE), files) };
      } catch (cause) {
        if (![SyntaxError, TypeError, v.ValiError].some((kind) => cause instanceof kind)) throw cause;
        throw new Error(`${hubUrl} does not answer as the Hugging Face hub does`, { cause });
      }
    },

    /** A file from a position on. The server may also send the whole file, or status 416. */
    open(commit: string, path: string, position: number) {
      const range = position > 0 && { range: `bytes=${position}-` };
      const headers = { 'accept-encoding': 'identity', ...range };
      return get(`${hubUrl}/${repository}/resolve/${commit}/${encodeURI(path)}`, headers);
    },

    close: () => dispatcher.destroy(),
  };
}

/** HF_TOKEN, or the token that `hf auth login` has saved. @returns also the variable or file, for messages */
function readToken(env: NodeJS.ProcessEnv): { value: string; source: string } | undefined {
  if (env.HF_TOKEN) return { value: env.HF_TOKEN.trim(), source: 'HF_TOKEN' };
  const path = env.HF_TOKEN_PATH || join(hubHome(env), 'token');
  try {
    return { value: readFileSync(path, 'utf8').trim(), source: path };
  } catch {
    return undefined; // no login on this machine
  }
}

/** What the operator can do about the hub's refusal, in one line. */
function explainRefusal(
  { status, headers }: Pick<UndiciResponse, 'status' | 'headers'>,
  { host, repository, token }: { host: string; repository: string; token: ReturnType<typeof readToken> },
): string {
  const code = headers.get('x-error-code');
  const page = `https://huggingface.co/${repository}`;
  const tokens = 'https://huggingface.co/settings/tokens';
  if (status === 401 && token)
    return `${host} refuses the token from ${token.source}: set HF_TOKEN to a valid one (${tokens}) of an account that has accepted the licence at ${page}`;
  if (status === 401 && code === 'GatedRepo')
    return `${repository} requires its licence to be accepted: accept it at ${page}, then set HF_TOKEN to a token of that account (${tokens})`;
  if (status === 403 && code === 'GatedRepo')
    return `the token from ${token?.source} is valid, but its account has not accepted the licence at ${page}`;
  const reason = headers.get('x-error-message') ?? code ?? 'no reason given';
  return `${host} answers with status ${status} for ${repository}: ${reason}`;
}
