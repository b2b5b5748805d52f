/** `infra/deploy/endpoint.json`: what the endpoint on RunPod shall be. Fields and units are those of RunPod's REST v2, and nothing is left to its defaults. */
import { readFileSync } from 'node:fs';
import * as v from 'valibot';
import { s3Options } from '../../core/bucket/open-bucket.ts';
import { modelName, readEnvironment, sharedVariables } from '../../core/environment.ts';
import { describeUnknownName } from '../../core/request.ts';
import { openBridges } from '../../handler/still/midjourney/open-bridges.ts';

/** An object with these fields and no others. */
function fields<E extends v.ObjectEntries>(entries: E) {
  const names = Object.keys(entries);
  return v.pipe(
    v.looseObject(entries, (issue) => (issue.received === 'undefined' ? 'is needed' : 'must be an object')),
    v.rawCheck(({ dataset: { value: input }, addIssue }) => {
      for (const [key, value] of Object.entries(input ?? {}))
        if (!names.includes(key))
          addIssue({
            message: describeUnknownName(key, names, `unknown; known are ${names.join(', ')}`),
            path: [{ type: 'object', origin: 'key', input: input as Record<string, unknown>, key, value }],
          });
    }),
    v.transform((input) => input as v.InferOutput<v.ObjectSchema<E, undefined>>),
  );
}

const text = (pattern: RegExp, allowed: string) => v.pipe(v.string(allowed), v.regex(pattern, allowed));

const whole = (min: number, max: number, unit = '') => {
  const allowed = `must be a whole number from ${min} to ${max}${unit}`;
  return v.pipe(v.number(allowed), v.integer(allowed), v.minValue(min, allowed), v.maxValue(max, allowed));
};

const listOf = (pattern: RegExp, what: string, least = 0) => {
  const allowed = `must be a list of ${what}, each once${least > 0 ? `, at least ${least}` : ''}`;
  return v.pipe(
    v.array(text(pattern, allowed), allowed),
    v.minLength(least, allowed),
    v.check((list) => new Set(list).size === list.length, allowed),
  );
};

const name = text(/^(?!.* -fb$)\S(.{0,62}\S)?$/, 'must be text of 1 to 64 characters');
const image = text(/^[\w.:@/-]+$/, 'must be an image, such as docker.io/you/img2vid:0.1.0');
const id = text(/^[\w-]+$/, 'must be an id, as RunPod shows it');
const word = /^[\w-]+$/;

/** What the worker is told by other fields, or by RunPod, or shall not know. */
const OURS = /^(MODEL|DEVICE|RUNPOD_API_KEY|RUNPOD_ENDPOINT_ID)$/;
const names = (what: string) =>
  v.optional(listOf(/^[A-Za-z_]\w*$/, `${what}, such as HF_TOKEN; their values come from the environment`), []);

const scaling = v.pipe(
  fields({
    type: v.picklist(['QUEUE_DELAY', 'REQUEST_COUNT'], 'must be QUEUE_DELAY or REQUEST_COUNT'),
    queueDelay: v.optional(v.pipe(v.number('must be a number of seconds'), v.minValue(0.5, 'must be at least 0.5 s'))),
    requestCount: v.optional(whole(1, 1000)),
  }),
  v.check(
    (given) =>
      (given.type === 'QUEUE_DELAY') === (given.queueDelay !== undefined) &&
      (given.type === 'REQUEST_COUNT') === (given.requestCount !== undefined),
    'must have queueDelay with QUEUE_DELAY, requestCount with REQUEST_COUNT',
  ),
);

const networkVolume = v.pipe(
  fields({
    id: v.optional(id),
    name: v.optional(name),
    /** GB */
    size: v.optional(whole(10, 4096, ' GB')),
    dataCenter: v.optional(text(word, 'must be a data center, such as EU-RO-1')),
  }),
  v.check(
    (given) => [given.name, given.size, given.dataCenter].every((part) => (part === undefined) === Boolean(given.id)),
    'must have id alone, or name, size and dataCenter',
  ),
  v.transform(({ id, name, size, dataCenter }) =>
    id === undefined ? { name: name!, size: size!, dataCenter: dataCenter! } : { id },
  ),
);

const endpointFile = v.pipe(
  fields({
    /** of the endpoint and of its template: by it they are found again */
    name,
    /** IMAGE in the environment comes before it */
    image: v.optional(image),
    /** the id of RunPod's credential for a private image */
    registry: v.optional(id),
    model: modelName,
    /** of a container; GB */
    disk: whole(1, 4096, ' GB'),
    gpu: fields({
      pools: listOf(word, 'GPU pools, such as ADA_24', 1),
      /** GPU types that are not wanted of the pools */
      excludedTypes: v.optional(listOf(/^[^-\s]/, 'GPU types, such as NVIDIA L40'), []),
      minCudaVersion: text(/^\d+\.\d+$/, 'must be a version of CUDA, such as 13.0'),
    }),
    workers: v.pipe(
      fields({
        min: whole(0, 1000),
        max: whole(0, 1000),
        /** seconds */
        idleTimeout: v.optional(whole(1, 3600, ' s')),
      }),
      v.check(({ min, max }) => min <= max, 'must have a min that is at most max'),
    ),
    scaling,
    flashboot: v.picklist(['OFF', 'FLASHBOOT', 'PRIORITY_FLASHBOOT'], 'must be OFF, FLASHBOOT or PRIORITY_FLASHBOOT'),
    /** of a job that says none itself; milliseconds */
    timeout: whole(5000, 7 * 24 * 3_600_000, ' ms'),
    /** none: RunPod chooses */
    dataCenterIds: v.optional(listOf(word, 'data centers, such as EU-RO-1'), []),
    networkVolume: v.optional(networkVolume),
    env: fields({ required: names('names of variables'), optional: names('names of variables') }),
  }),
  v.rawCheck(({ dataset, addIssue }) => {
    if (!dataset.typed) return;
    const { workers, scaling, networkVolume, dataCenterIds, env } = dataset.value;
    const isTimed = scaling.type === 'QUEUE_DELAY';
    if (isTimed && workers.idleTimeout === undefined) addIssue({ message: 'workers.idleTimeout: is needed' });
    if (!isTimed && workers.idleTimeout !== undefined)
      addIssue({ message: 'workers.idleTimeout: RunPod knows none with scaling.type REQUEST_COUNT' });
    if (networkVolume && dataCenterIds.length > 0)
      addIssue({ message: 'dataCenterIds: not beside networkVolume, whose data center counts' });
    for (const ours of [...env.required, ...env.optional].filter((variable) => OURS.test(variable)))
      addIssue({ message: `env: ${ours} is not passed on: ${whyNot(ours)}` });
  }),
);

const whyNot = (variable: string) =>
  variable.startsWith('RUNPOD_') ? 'RunPod gives its workers their own' : 'it follows from model';

export type EndpointFile = v.InferOutput<typeof endpointFile>;

/** @throws Error that names every wrong field and what is allowed; no value is repeated, for it may be a secret in the wrong place */
export function readEndpointFile(path: string): EndpointFile {
  const { success, output, issues } = v.safeParse(endpointFile, readJson(path));
  if (success) return output;
  const wrong = issues.map((issue) => {
    const field = v.getDotPath(issue);
    return field ? `${field}: ${issue.message}` : issue.message;
  });
  throw new Error(`${path} is not right:\n${[...new Set(wrong)].map((line) => `  ${line}`).join('\n')}`);
}

function readJson(path: string): unknown {
  let content: string;
  try {
    content = readFileSync(path, 'utf8');
  } catch (error) {
    throw new Error(`${path} can’t be read (${(error as NodeJS.ErrnoException).code})`);
  }
  try {
    return JSON.parse(content);
  } catch (error) {
    const place = /(?:at )?(position \d+|line \d+ column \d+)/.exec((error as Error).message)?.[1];
    throw new Error(`${path} is not JSON${place ? `: ${place}` : ''}`);
  }
}

/** @throws Error in one line */
export function imageOf(file: EndpointFile, env: NodeJS.ProcessEnv): string {
  const chosen = env.IMAGE || file.image;
  if (!chosen)
    throw new Error(
      'no image is named: docker build -t docker.io/you/img2vid:0.1.0 . && docker push docker.io/you/img2vid:0.1.0, then say so in IMAGE or endpoint.json',
    );
  if (!v.is(image, chosen)) throw new Error('IMAGE must be an image, such as docker.io/you/img2vid:0.1.0');
  return chosen;
}

/**
 * What the worker's environment shall be: the variables that the file names, with the operator's values, and what follows from the model.
 * @throws Error that names what is missing, or what the worker would not start with; no value is repeated
 */
export function workerEnvironment(file: EndpointFile, env: NodeJS.ProcessEnv): Record<string, string> {
  const missing = file.env.required.filter((variable) => !env[variable]);
  if (missing.length > 0)
    throw new Error(
      `the environment lacks ${missing.join(', ')}, which endpoint.json has under env.required for the worker`,
    );
  const passed = [...file.env.required, ...file.env.optional].flatMap((variable) =>
    env[variable] ? [[variable, env[variable]] as const] : [],
  );
  const device = file.model === 'camera' ? {} : { DEVICE: 'cuda' }; // better no worker than one that bills a GPU and uses its processor
  const worker: Record<string, string> = { ...Object.fromEntries(passed), MODEL: file.model, ...device };
  if (!s3Options(readEnvironment(sharedVariables, worker)))
    throw new Error('BUCKET_NAME is needed for the worker: on RunPod what lies in a folder is gone with its worker');
  openBridges(worker);
  return worker;
}
