/**
 * RunPod's REST v2, as much of it as `npm run deploy` asks for. A request is sent again where that can do no harm: after 429, and where
 * it surely was not heard; else only if it makes nothing. A creation without an answer is looked for by its name, never repeated.
 */
import { setTimeout as delay } from 'node:timers/promises';
import * as v from 'valibot';
import { SECOND } from '../../core/time.ts';
import { retry, TransientError } from '../tools/retry.ts';

const TIMEOUT = 30 * SECOND;
/** Before each new try, and before each look for what may have been made. */
const WAITS = [1, 2, 5, 10].map((seconds) => seconds * SECOND);
/** A limit that lets go later than this is for the operator to wait for: RunPod has limits by the minute, the hour and the day. */
const LONGEST_WAIT = 90 * SECOND;
const LIMITED_TRIES = 5;

const volume = v.object({ id: v.string(), name: v.string(), size: v.number(), dataCenter: v.string() });

const container = {
  image: v.optional(v.string(), ''),
  args: v.optional(v.string(), ''),
  disk: v.optional(v.number()),
  ports: v.nullish(v.array(v.string()), []),
  registry: v.nullish(v.string(), null),
  env: v.nullish(v.record(v.string(), v.string()), {}),
};

const template = v.object({
  ...container,
  id: v.string(),
  name: v.string(),
  serverless: v.boolean(),
  public: v.boolean(),
  category: v.string(),
  startSsh: v.boolean(),
  startJupyter: v.boolean(),
  allowedCudaVersions: v.array(v.string()),
});

const endpoint = v.object({
  ...container,
  id: v.string(),
  name: v.string(),
  type: v.optional(v.string(), 'QUEUE'),
  gpu: v.nullish(
    v.object({
      pools: v.array(v.string()),
      excludedTypes: v.optional(v.array(v.string()), []),
      count: v.optional(v.number(), 1),
      allowedCudaVersions: v.array(v.string()),
      minCudaVersion: v.nullable(v.string()),
    }),
  ),
  workers: v.object({ min: v.number(), max: v.number(), idleTimeout: v.optional(v.number()) }),
  scaling: v.object({
    type: v.string(),
    queueDelay: v.optional(v.number()),
    requestCount: v.optional(v.number()),
  }),
  dataCenterIds: v.array(v.string()),
  networkVolumes: v.array(v.string()),
  timeout: v.number(),
  flashboot: v.string(),
  createdAt: v.string(),
});

const gpu = v.object({
  id: v.string(),
  name: v.string(),
  pool: v.nullable(v.string()),
  memory: v.number(),
  price: v.object({ serverless: v.optional(v.number()) }),
  availability: v.optional(v.string()),
  dataCenters: v.optional(v.array(v.object({ id: v.string(), availability: v.string() })), []),
});

const workers = v.object({
  workers: v.array(
    v.object({
      id: v.string(),
      status: v.string(),
      isStale: v.boolean(),
      version: v.nullish(v.number()),
      gpuTypeId: v.nullish(v.string()),
      dataCenterId: v.nullish(v.string()),
      uptimeSeconds: v.nullish(v.number()),
    }),
  ),
});

/** Of a release's changes only the fields' names are read: old and new values hold the environment. */
const releases = v.object({
  rollout: v.object({ inProgress: v.boolean(), workersOnLatest: v.number(), workersTotal: v.number() }),
  releases: v.array(
    v.object({
      version: v.nullish(v.number()),
      createdAt: v.string(),
      diff: v.array(v.object({ field: v.string() })),
    }),
  ),
});

const count = v.optional(v.number(), 0);
const health = v.object({
  jobs: v.object({ inQueue: count, inProgress: count, completed: count, failed: count, retried: count }),
});

export type Volume = v.InferOutput<typeof volume>;
export type Template = v.InferOutput<typeof template>;
export type Endpoint = v.InferOutput<typeof endpoint>;
export type Gpu = v.InferOutput<typeof gpu>;

interface Named {
  id: string;
  name: string;
}

const listed = v.looseObject({ id: v.string(), name: v.nullish(v.string(), '') });
export type Listed = v.InferOutput<typeof listed>;
const isNamed = (name: string) => (one: Listed) => one.name === name;

export interface Kind<T> {
  noun: string;
  path: string;
  /** under which a list's answer has it */
  key: string;
  schema: v.GenericSchema<unknown, T>;
}
export const VOLUMES: Kind<Volume> = {
  noun: 'network volume',
  path: '/network-volumes',
  key: 'networkVolumes',
  schema: volume,
};
export const TEMPLATES: Kind<Template> = { noun: 'template', path: '/templates', key: 'templates', schema: template };
export const ENDPOINTS: Kind<Endpoint> = { noun: 'endpoint', path: '/serverless', key: 'endpoints', schema: endpoint };

export interface RestOptions {
  apiKey: string;
  /** with the version, such as https://api.runpod.io/v2 */
  baseUrl: string;
  /** of the endpoints' own API, such as https://api.runpod.ai/v2 */
  jobsUrl: string;
  /** what no message may hold, whatever RunPod says */
  secrets: string[];
  /** told why there is a wait */
  say: (text: string) => void;
  pause?: (milliseconds: number) => Promise<unknown>;
}

/** RunPod has answered with another status than 2xx, and asking again would not help. */
class Refusal extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** Nobody knows whether RunPod has made what it was asked to make. */
class Unanswered extends Error {}

export type Rest = ReturnType<typeof openRest>;

/** Every failure is an Error whose message is for the operator. */
export function openRest({ apiKey, baseUrl, jobsUrl, secrets, say, pause = delay }: RestOptions) {
  interface Request<T> {
    /** in words: `read the templates` */
    task: string;
    method?: 'GET' | 'POST' | 'PATCH' | 'DELETE';
    url: string;
    schema?: v.GenericSchema<unknown, T>;
    body?: object;
  }

  const call = <T>(request: Request<T>): Promise<T> =>
    retry(() => send(request), { delays: WAITS, log: say, sleep: pause });

  async function send<T>(request: Request<T>): Promise<T> {
    const { task, method = 'GET', url, schema, body } = request;
    const lost = (why: string, cause?: unknown) =>
      method === 'POST'
        ? new Unanswered(`${why}: whether it did ${task} is not known`, { cause })
        : new TransientError(why, { cause });
    for (let tries = 1; ; tries++) {
      const response = await fetch(url, {
        method,
        headers: { authorization: `Bearer ${apiKey}`, ...(body && { 'content-type': 'application/json' }) },
        ...(body && { body: JSON.stringify(body) }),
        redirect: 'manual', // the key is for this address only
        signal: AbortSignal.timeout(TIMEOUT),
      }).catch((cause) => {
        const reason = reasonOf(cause);
        const why = `${new URL(url).host} can’t be reached (${reason})`;
        throw NOT_SENT.has(reason) ? new TransientError(why, { cause }) : lost(why, cause);
      });
      const answer = await response.text().catch((cause) => {
        throw lost(`RunPod’s answer broke off (${reasonOf(cause)})`, cause);
      });
      if (response.ok) {
        if (!schema) return undefined as T;
        try {
          return understood(schema, parsed(answer), `asked to ${task}`);
        } catch (error) {
          throw method === 'POST' ? new Unanswered((error as Error).message) : error;
        }
      }
      const words = said(answer);
      if (response.status >= 500 || response.status === 408)
        throw lost(`RunPod failed (status ${response.status}${words && `: ${words}`})`);
      const wait = response.status === 429 ? waitOf(response) : Infinity;
      if (wait > LONGEST_WAIT || tries === LIMITED_TRIES) throw refusal(request, response, words);
      say(`RunPod asks to wait ${wait / SECOND} s: too many requests`);
      await pause(wait);
    }
  }

  function refusal({ task }: Request<unknown>, response: Response, words: string): Error {
    const { status } = response;
    const because = words && `: ${words}`;
    const say = (message: string) => new Refusal(status, message);
    if (status === 401)
      return say(
        `RunPod does not take the key in RUNPOD_API_KEY; its console makes one under Settings, API Keys${because}`,
      );
    if (status === 402) return say(`RunPod wants credit before it will ${task}: see Billing in its console${because}`);
    if (status === 403)
      return say(`the key in RUNPOD_API_KEY may not ${task}: it needs read and write access${because}`);
    if (status === 429) {
      const minutes = Math.ceil(waitOf(response) / (60 * SECOND));
      return say(`RunPod’s limit of requests is used up; run this again in ${minutes} min${because}`);
    }
    const hint = HINTS.find(({ words: pattern }) => pattern.test(words))?.hint;
    return say(`RunPod will not ${task} (status ${status})${because}${hint ? `\n${hint}` : ''}`);
  }

  /** A problem's words, unless they repeat what is secret. */
  function said(answer: string): string {
    const { success, output } = v.safeParse(problem, parsed(answer));
    if (!success) return '';
    const words = [output.detail, ...output.errors].filter(Boolean).join('; ');
    return secrets.some((secret) => repeats(words, secret))
      ? '(its words are not shown, for they repeat a value that it was sent)'
      : words.slice(0, 1000).replace(/\p{Cc}+/gu, ' ');
  }

  /** @returns undefined if there is none. @throws Error: there are several */
  async function find<T extends Named>(kind: Kind<T>, name: string, isIt = isNamed(name)): Promise<T | undefined> {
    const { noun, path, key, schema } = kind;
    const answer = v.object({ [key]: v.array(listed) }); // what is not ours may have what form it will
    const things = (await call({ task: `list the ${noun}s`, url: `${baseUrl}${path}`, schema: answer }))[key]!;
    const [found, ...others] = things.filter(isIt);
    if (others.length > 0)
      throw new Error(
        `there are ${others.length + 1} ${noun}s ${name} (${[found!, ...others].map(({ id }) => id).join(', ')}), and which is meant can’t be told: rename or delete all but one in RunPod’s console`,
      );
    return found && understood(schema, found, `about the ${noun} ${name}`);
  }

  return {
    find,

    /** One that is not there. Where no answer comes it is looked for, and only found, never made again. */
    async create<T extends Named>(kind: Kind<T>, body: { name: string }, isIt?: (one: Listed) => boolean): Promise<T> {
      const task = `create the ${kind.noun} ${body.name}`;
      let lost: Unanswered;
      try {
        return await call({ task, method: 'POST', url: `${baseUrl}${kind.path}`, schema: kind.schema, body });
      } catch (error) {
        if (!(error instanceof Unanswered)) throw error;
        lost = error;
      }
      say(`${lost.message}; looking for it`);
      for (const wait of WAITS) {
        await pause(wait);
        const made = await find(kind, body.name, isIt);
        if (made) return made;
      }
      throw new Error(`${lost.message}; it shows none so far. Run this again in a minute: it looks first`);
    },

    change<T>(kind: Kind<T>, { id, name }: Named, body: object): Promise<T> {
      const task = `change the ${kind.noun} ${name}`;
      return call({ task, method: 'PATCH', url: `${baseUrl}${kind.path}/${id}`, schema: kind.schema, body });
    },

    /** @returns false if it was not there (any more) */
    async remove(kind: Kind<unknown>, { id, name }: Named): Promise<boolean> {
      try {
        await call({ task: `delete the ${kind.noun} ${name}`, method: 'DELETE', url: `${baseUrl}${kind.path}/${id}` });
        return true;
      } catch (error) {
        if (error instanceof Refusal && error.status === 404) return false;
        throw error;
      }
    },

    volume: (id: string): Promise<Volume> =>
      call({ task: `find the network volume ${id}`, url: `${baseUrl}${VOLUMES.path}/${id}`, schema: volume }),

    /** All GPU types, with where a worker may find one now. */
    async gpus({ minCudaVersion }: { minCudaVersion: string }): Promise<Gpu[]> {
      const query = new URLSearchParams({ include: 'AVAILABILITY', product: 'SERVERLESS', minCudaVersion });
      const schema = v.object({ gpus: v.array(gpu) });
      return (await call({ task: 'list the GPUs', url: `${baseUrl}/catalog/gpus?${query}`, schema })).gpus;
    },

    async workers({ id }: Endpoint) {
      const url = `${baseUrl}${ENDPOINTS.path}/${id}/workers`;
      return (await call({ task: 'list the workers', url, schema: workers })).workers;
    },
    releases: ({ id }: Endpoint) =>
      call({ task: 'list the releases', url: `${baseUrl}${ENDPOINTS.path}/${id}/releases`, schema: releases }),
    async jobs({ id }: Endpoint) {
      return (await call({ task: 'count the jobs', url: `${jobsUrl}/${id}/health`, schema: health })).jobs;
    },
  };
}

/** @throws Error that does not repeat the answer: a template's or an endpoint's environment is in it */
function understood<T>(schema: v.GenericSchema<unknown, T>, answer: unknown, about: string): T {
  const { success, output, issues } = v.safeParse(schema, answer);
  if (success) return output;
  throw new Error(`RunPod’s answer, ${about}, has not the form of one: ${v.getDotPath(issues[0]) ?? 'no object'}`);
}

const problem = v.object({
  detail: v.optional(v.string(), ''),
  errors: v.optional(v.array(v.string()), []),
});

/** What helps where RunPod's own words do not. */
const HINTS = [
  {
    words: /quota|concurrency|max(imum)? limit|workers?max|too many workers/i,
    hint: 'How many workers an account may have grows with its balance: lower workers.max in endpoint.json, or add credit.',
  },
  { words: /balance|credit|fund|payment/i, hint: 'See Billing in RunPod’s console.' },
];

/** Codes of undici and Node for what happens before a request is on its way. */
const NOT_SENT = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'UND_ERR_CONNECT_TIMEOUT']);

/** In as few words as the system has, and none of ours: a header's or an address's text is not among them. */
function reasonOf(error: unknown): string {
  const { code, name, cause } = error as { code?: unknown; name?: string; cause?: unknown };
  if (typeof code === 'string') return code;
  if (name === 'TimeoutError') return `no answer in ${TIMEOUT / SECOND} s`;
  return cause ? reasonOf(cause) : (name ?? 'no reason given');
}

/** Milliseconds. */
function waitOf({ headers }: Response): number {
  const text = headers.get('retry-after') ?? '';
  return (/^\d+$/.test(text) ? Math.max(1, Number(text)) : 10) * SECOND;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

const TELLING = 12; // characters of a secret that are too many to show

/** Whether words hold a secret or a good part of it, also as JSON and addresses write it. */
export function repeats(words: string, secret: string): boolean {
  const plain = words
    .replace(/\\u([\da-f]{4})/gi, (_, code) => String.fromCharCode(Number.parseInt(code, 16)))
    .replace(/%([\da-f]{2})/gi, (_, code) => String.fromCharCode(Number.parseInt(code, 16)))
    .replace(/\\(.)/g, '$1');
  const bare = secret.replace(/\\/g, '');
  const size = Math.min(TELLING, bare.length);
  return (
    size > 3 &&
    Array.from({ length: bare.length - size + 1 }, (_, i) => bare.slice(i, i + size)).some((part) =>
      plain.includes(part),
    )
  );
}
