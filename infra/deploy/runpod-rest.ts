/** A client for RunPod's REST v2. Every failure is an Error whose message is for the operator and holds no secret. */
import * as v from 'valibot';
import { parseRetryAfter } from '../../core/retry-after.js';
import { MINUTE, SECOND } from '../../core/time.ts';
import { type RetryOptions, reasonOf, retry, TransientError } from '../tools/retry.ts';
import { type Kind, listSchema, type Wanted } from './runpod-resources.ts';

const TIMEOUT = 30 * SECOND;

/**
 * What is repeated: a failed connection and a status of 408, 429 or 5xx. A creation is repeated only where RunPod certainly did not
 * execute it: after 429, and where no connection was made. Otherwise it is searched for by name, at the same intervals.
 */
const RETRY = {
  delays: [1, 2, 5, 10].map((seconds) => seconds * SECOND),
  /** After 429, where RunPod names no pause. */
  defaultPause: 10 * SECOND,
  /** RunPod has limits per minute, hour and day. A longer pause is left to the operator. */
  maxPause: 90 * SECOND,
  /** Error codes of undici and Node for requests that were not sent. */
  notSent: ['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'UND_ERR_CONNECT_TIMEOUT'],
};

export interface RestOptions extends Pick<RetryOptions, 'log'> {
  apiKey: string;
  /** With the version, such as https://api.runpod.io/v2. */
  baseUrl: string;
  /** Values that no message may repeat, even if RunPod's answer does. */
  secrets: string[];
  sleep: (milliseconds: number) => Promise<unknown>;
}

interface Request<T> {
  /** For messages: `list the templates`. */
  task: string;
  method?: 'GET' | 'POST' | 'PATCH' | 'DELETE';
  /** Below `baseUrl`, or a whole URL. */
  url: string;
  schema: v.GenericSchema<unknown, T>;
  body?: object;
}

type Named = { id: string; name: string };

/** It is unknown whether RunPod created something. */
class UnknownOutcomeError extends Error {}

export type Rest = ReturnType<typeof openRest>;

export function openRest(options: RestOptions) {
  const { log, sleep } = options;
  const call = <T>(request: Request<T>): Promise<T> =>
    retry(() => send(request, options), { delays: RETRY.delays, log, sleep });

  /** @returns undefined if there is none. @throws Error: there are several */
  async function find<T>({ noun, path, key, schema, isMatch }: Kind<T>, wanted: Wanted): Promise<T | undefined> {
    const { [key]: listed } = await call({ task: `list the ${noun}s`, url: path, schema: listSchema(key) });
    const found = listed!.filter((one) => isMatch(one, wanted));
    const ids = found.map(({ id }) => id).join(', ');
    if (found.length > 1)
      throw new Error(
        `there are ${found.length} ${noun}s named ${wanted.name} (${ids}): rename or delete all but one in RunPod’s console`,
      );
    return found[0] && parse(schema, found[0], `about the ${noun} ${wanted.name}`);
  }

  return {
    call,
    find,

    /** Creates a resource that does not exist. If the outcome is unknown, it is searched for, and never created again. */
    async create<T>(kind: Kind<T>, body: Wanted): Promise<T> {
      const request = { task: `create the ${kind.noun} ${body.name}`, url: kind.path, schema: kind.schema, body };
      try {
        return await call({ ...request, method: 'POST' });
      } catch (error) {
        if (!(error instanceof UnknownOutcomeError)) throw error;
        log(`${error.message}; searching for it`);
        for (const delay of RETRY.delays) {
          await sleep(delay);
          const created = await find(kind, body);
          if (created) return created;
        }
        throw new Error(
          `${error.message}, and RunPod does not list it yet. Run this again in a minute: it searches before it creates`,
        );
      }
    },

    change: <T>({ noun, path, schema }: Kind<T>, { id, name }: Named, body: object): Promise<T> =>
      call({ task: `change the ${noun} ${name}`, method: 'PATCH', url: `${path}/${id}`, schema, body }),

    /** @returns false if it no longer existed */
    remove: ({ noun, path }: Kind<unknown>, { id, name }: Named): Promise<boolean> =>
      call({ task: `delete the ${noun} ${name}`, method: 'DELETE', url: `${path}/${id}`, schema: v.boolean() }),
  };
}

/** One attempt. A deletion's result is whether the resource existed. @throws TransientError or UnknownOutcomeError or Error */
async function send<T>(
  { task, method = 'GET', url, schema, body }: Request<T>,
  { apiKey, baseUrl, secrets }: RestOptions,
): Promise<T> {
  const failure = (message: string, cause?: unknown) =>
    method === 'POST'
      ? new UnknownOutcomeError(`${message}: it is unknown whether RunPod did ${task}`, { cause })
      : new TransientError(message, { cause });
  const target = new URL(/^https?:/.test(url) ? url : baseUrl + url);
  let response: Response;
  let answer: string;
  try {
    response = await fetch(target, {
      method,
      headers: { authorization: `Bearer ${apiKey}`, ...(body && { 'content-type': 'application/json' }) },
      ...(body && { body: JSON.stringify(body) }),
      redirect: 'manual', // the key is for this host only
      signal: AbortSignal.timeout(TIMEOUT),
    });
    answer = await response.text();
  } catch (cause) {
    const reason = reasonOf(cause);
    const message = `the connection to ${target.host} failed (${reason})`;
    throw RETRY.notSent.includes(reason) ? new TransientError(message, { cause }) : failure(message, cause);
  }
  const { ok, status } = response;
  if (method === 'DELETE' && (ok || status === 404)) return v.parse(schema, ok);
  if (ok) {
    try {
      return parse(schema, fromJson(answer), `to “${task}”`);
    } catch (error) {
      throw method === 'POST' ? failure((error as Error).message) : error;
    }
  }
  const detail = detailOf(answer, secrets);
  if (status === 408 || status >= 500) throw failure(`RunPod failed (status ${status}${detail})`);
  if (status === 429) {
    const pause = Math.max(SECOND, parseRetryAfter(response.headers.get('retry-after')) ?? RETRY.defaultPause);
    const message = `RunPod’s limit of requests is used up${detail}`;
    if (pause <= RETRY.maxPause) throw Object.assign(new TransientError(message), { retryAfter: pause });
    throw new Error(`${message}; run this again in ${Math.ceil(pause / MINUTE)} min`);
  }
  throw new Error(explainRefusal(status, task, detail));
}

/** @throws Error that does not repeat the answer, which may hold an environment */
function parse<T>(schema: v.GenericSchema<unknown, T>, answer: unknown, about: string): T {
  const { success, output, issues } = v.safeParse(schema, answer);
  if (success) return output;
  const field = v.getDotPath(issues[0]);
  throw new Error(`RunPod’s answer ${about} is not as documented: ${field ?? 'no JSON object'}`);
}

function fromJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function explainRefusal(status: number, task: string, detail: string): string {
  if (status === 401)
    return `RunPod refuses the key in RUNPOD_API_KEY; create one in its console under Settings, API Keys${detail}`;
  if (status === 402) return `RunPod requires credit to ${task}: see Billing in its console${detail}`;
  if (status === 403) return `the key in RUNPOD_API_KEY may not ${task}: it needs read and write access${detail}`;
  let hint = ''; // for details that do not say what to do
  if (/quota|concurrency|max(imum)? limit|workers?max|too many workers/i.test(detail))
    hint =
      '\nAn account’s number of workers grows with its balance: lower workers.max in endpoint.json, or add credit.';
  else if (/balance|credit|fund|payment/i.test(detail)) hint = '\nSee Billing in RunPod’s console.';
  return `RunPod refuses to ${task} (status ${status})${detail}${hint}`;
}

const PROBLEM = v.object({ detail: v.optional(v.string(), ''), errors: v.optional(v.array(v.string()), []) });

/** RunPod's own explanation as `: TEXT`, unless it is empty or repeats a secret. */
function detailOf(answer: string, secrets: string[]): string {
  const { success, output } = v.safeParse(PROBLEM, fromJson(answer));
  const text = success ? [output.detail, ...output.errors].filter(Boolean).join('; ') : '';
  if (secrets.some((secret) => repeatsSecret(text, secret)))
    return ' (RunPod’s explanation is hidden: it repeats a secret value)';
  return text && `: ${text.slice(0, 1000).replace(/\p{Cc}+/gu, ' ')}`;
}

/** This many consecutive characters of a secret are not to be printed. */
const REVEALING = 12;

/** Whether a text contains a secret or a large part of it, also as JSON and URLs escape it. */
export function repeatsSecret(text: string, secret: string): boolean {
  const plain = text
    .replace(/\\u([\da-f]{4})|%([\da-f]{2})/gi, (_, u, percent) =>
      String.fromCharCode(Number.parseInt(u ?? percent, 16)),
    )
    .replace(/\\(.)/g, '$1');
  const bare = secret.replace(/\\/g, '');
  const size = Math.min(REVEALING, bare.length);
  if (size <= 3) return false;
  const starts = [...Array(bare.length - size + 1).keys()];
  return starts.some((start) => plain.includes(bare.slice(start, start + size)));
}
