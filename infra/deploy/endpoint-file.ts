/**
 * `infra/deploy/endpoint.json`: the endpoint that should exist on RunPod. Fields and units are those of RunPod's REST v2. Every setting
 * is explicit, so none depends on RunPod's defaults.
 */
import { readFileSync } from 'node:fs';
import * as v from 'valibot';
import { resolveS3Options } from '../../core/bucket/open-bucket.ts';
import { modelName, readEnvironment, sharedVariables } from '../../core/environment.ts';
import { DAY } from '../../core/time.ts';
import { describeUnknownName } from '../../core/unknown-names.ts';
import { BRIDGE_VARIABLES, openBridges } from '../../handler/still/bridges/open-bridges.ts';

/** An object with these fields and no others. */
function object<E extends v.ObjectEntries>(entries: E) {
  const names = Object.keys(entries);
  return v.strictObject(entries, ({ expected, received, input }) => {
    if (expected === 'never')
      return describeUnknownName(String(input), names, `unknown; known are ${names.join(', ')}`);
    return received === 'undefined' ? 'is needed' : 'must be an object';
  });
}

const text = (pattern: RegExp, allowed: string) => v.pipe(v.string(allowed), v.regex(pattern, allowed));

const integer = (min: number, max: number, unit = '') => {
  const allowed = `must be a whole number from ${min} to ${max}${unit}`;
  return v.pipe(v.number(allowed), v.integer(allowed), v.minValue(min, allowed), v.maxValue(max, allowed));
};

const listOf = (pattern: RegExp, what: string, minLength = 0) => {
  const allowed = `must be a list of ${what}, each once${minLength > 0 ? `, at least ${minLength}` : ''}`;
  return v.pipe(
    v.array(text(pattern, allowed), allowed),
    v.minLength(minLength, allowed),
    v.check((list) => new Set(list).size === list.length, allowed),
  );
};

const NAME = text(/^(?!.* -fb$)\S(.{0,62}\S)?$/, 'must be text of 1 to 64 characters');
const IMAGE = text(/^[\w.:@/-]+$/, 'must be an image, such as docker.io/you/img2vid:0.1.0');
const ID = text(/^[\w-]+$/, 'must be an id, as RunPod shows it');
const WORD = /^[\w-]+$/;

/** Variables that the worker gets from other fields or from RunPod, or must not have. */
const RESERVED = /^(MODEL|DEVICE|RUNPOD_API_KEY|RUNPOD_ENDPOINT_ID)$/;
const VARIABLES = v.optional(
  listOf(/^[A-Za-z_]\w*$/, 'names of variables, such as HF_TOKEN; their values come from the environment'),
  [],
);

const SCALING_FIELD = { QUEUE_DELAY: 'queueDelay', REQUEST_COUNT: 'requestCount' };
const SCALING = v.pipe(
  object({
    type: v.picklist(['QUEUE_DELAY', 'REQUEST_COUNT'], 'must be QUEUE_DELAY or REQUEST_COUNT'),
    /** seconds */
    queueDelay: v.optional(v.pipe(v.number('must be a number of seconds'), v.minValue(0.5, 'must be at least 0.5 s'))),
    requestCount: v.optional(integer(1, 1000)),
  }),
  v.check(
    (scaling) => 'queueDelay' in scaling !== 'requestCount' in scaling && SCALING_FIELD[scaling.type] in scaling,
    'must have queueDelay with QUEUE_DELAY, requestCount with REQUEST_COUNT',
  ),
);

const NETWORK_VOLUME = v.pipe(
  object({
    id: v.optional(ID),
    name: v.optional(NAME),
    /** GB */
    size: v.optional(integer(10, 4096, ' GB')),
    dataCenter: v.optional(text(WORD, 'must be a data center, such as EU-RO-1')),
  }),
  v.check(
    ({ id, name, size, dataCenter }) => [name, size, dataCenter].every((part) => (part === undefined) === Boolean(id)),
    'must have id alone, or name, size and dataCenter',
  ),
  v.transform(({ id, name, size, dataCenter }) =>
    id === undefined ? { name: name!, size: size!, dataCenter: dataCenter! } : { id },
  ),
);

const ENDPOINT_FILE = v.pipe(
  object({
    /** Identifies the endpoint and its template. */
    name: NAME,
    /** IMAGE in the environment takes precedence. */
    image: v.optional(IMAGE),
    /** The id of RunPod's credential for a private image. */
    registry: v.optional(ID),
    model: modelName,
    /** Of a container, in GB. */
    disk: integer(1, 4096, ' GB'),
    gpu: object({
      pools: listOf(WORD, 'GPU pools, such as ADA_24', 1),
      /** GPU types of the pools that are not to be used. */
      excludedTypes: v.optional(listOf(/^[^-\s]/, 'GPU types, such as NVIDIA L40'), []),
      minCudaVersion: text(/^\d+\.\d+$/, 'must be a version of CUDA, such as 13.0'),
    }),
    workers: v.pipe(
      object({
        min: integer(0, 1000),
        max: integer(0, 1000),
        /** seconds */
        idleTimeout: v.optional(integer(1, 3600, ' s')),
      }),
      v.check(({ min, max }) => min <= max, 'must have a min that is at most max'),
    ),
    scaling: SCALING,
    flashboot: v.picklist(['OFF', 'FLASHBOOT', 'PRIORITY_FLASHBOOT'], 'must be OFF, FLASHBOOT or PRIORITY_FLASHBOOT'),
    /** Of a job that has no timeout of its own, in milliseconds. */
    timeout: integer(5000, 7 * DAY, ' ms'),
    /** None: RunPod chooses. */
    dataCenterIds: v.optional(listOf(WORD, 'data centers, such as EU-RO-1'), []),
    networkVolume: v.optional(NETWORK_VOLUME),
    env: object({ required: VARIABLES, optional: VARIABLES }),
  }),
  v.rawCheck(({ dataset, addIssue }) => {
    if (!dataset.typed) return;
    const { workers, scaling, networkVolume, dataCenterIds, env } = dataset.value;
    const hasIdleTimeout = workers.idleTimeout !== undefined;
    if (scaling.type === 'QUEUE_DELAY' && !hasIdleTimeout) addIssue({ message: 'workers.idleTimeout: is needed' });
    if (scaling.type === 'REQUEST_COUNT' && hasIdleTimeout)
      addIssue({ message: 'workers.idleTimeout: not allowed with scaling.type REQUEST_COUNT' });
    if (networkVolume && dataCenterIds.length > 0)
      addIssue({ message: 'dataCenterIds: not allowed with networkVolume, whose data center is used' });
    for (const name of [...env.required, ...env.optional].filter((name) => RESERVED.test(name))) {
      const reason = name.startsWith('RUNPOD_') ? 'RunPod gives its workers their own' : 'it follows from model';
      addIssue({ message: `env: ${name} is not passed on: ${reason}` });
    }
  }),
);

export type EndpointFile = v.InferOutput<typeof ENDPOINT_FILE>;

/** @throws Error that names the wrong fields and what is allowed, but no value: it may be a secret in the wrong place */
export function readEndpointFile(path: string): EndpointFile {
  const { success, output, issues } = v.safeParse(ENDPOINT_FILE, readJson(path));
  if (success) return output;
  const lines = issues.map((issue) => [v.getDotPath(issue), issue.message].filter(Boolean).join(': '));
  throw new Error(`${path} is not valid:\n${[...new Set(lines)].map((line) => `  ${line}`).join('\n')}`);
}

function readJson(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code) throw new Error(`${path} can’t be read (${code})`);
    const place = /(position \d+|line \d+ column \d+)/.exec(message)?.[1]; // the rest may hold a secret
    throw new Error(`${path} is not JSON${place ? `: ${place}` : ''}`);
  }
}

/** @throws Error in one line */
export function imageOf(file: EndpointFile, env: NodeJS.ProcessEnv): string {
  const image = env.IMAGE || file.image;
  if (!image)
    throw new Error(
      'no image is named: docker build -t docker.io/you/img2vid:0.1.0 . && docker push docker.io/you/img2vid:0.1.0, then set IMAGE or image in endpoint.json',
    );
  if (!v.is(IMAGE, image)) throw new Error('IMAGE must be an image, such as docker.io/you/img2vid:0.1.0');
  return image;
}

/**
 * The worker's environment: the variables that the file names, with the operator's values, and those that follow from the model.
 * @throws Error that names what is missing or what the worker would refuse, but no value
 */
export function workerEnvironment(file: EndpointFile, env: NodeJS.ProcessEnv): Record<string, string> {
  const missing = file.env.required.filter((name) => !env[name]);
  if (missing.length > 0)
    throw new Error(
      `the environment lacks ${missing.join(', ')}, required for the worker by env.required of endpoint.json`,
    );
  const given = [...file.env.required, ...file.env.optional].filter((name) => env[name]);
  const worker: Record<string, string> = {
    ...Object.fromEntries(given.map((name) => [name, env[name]!])),
    MODEL: file.model,
    ...(file.model !== 'camera' && { DEVICE: 'cuda' }), // a worker that can't use its GPU fails rather than bill it and use its CPU
  };
  const settings = readEnvironment({ ...sharedVariables, ...BRIDGE_VARIABLES }, worker);
  if (!resolveS3Options(settings))
    throw new Error('BUCKET_NAME is needed for the worker: on RunPod a local folder is lost with its worker');
  openBridges(settings);
  return worker;
}
