/**
 * `npm run deploy`: the endpoint on RunPod, with its template and network volume, as `infra/deploy/endpoint.json` says; `-- status` shows how
 * it does, `-- destroy` deletes it. Each thing is known by its name, so a run that broke off anywhere is gone on with by the next.
 */
import { realpathSync } from 'node:fs';
import { createInterface } from 'node:readline/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import * as v from 'valibot';
import { httpUrl, readEnvironment } from '../../core/environment.ts';
import { describeUnknownName } from '../../core/request.ts';
import { type EndpointFile, imageOf, readEndpointFile, workerEnvironment } from './endpoint-file.ts';
import {
  ENDPOINTS,
  type Endpoint,
  type Gpu,
  type Kind,
  type Listed,
  openRest,
  type Rest,
  TEMPLATES,
  VOLUMES,
} from './runpod-rest.ts';

const HOUR = 3600; // seconds
const ENDPOINT_FILE = fileURLToPath(new URL('endpoint.json', import.meta.url));

const USAGE = `npm run deploy [-- --dry-run] | npm run deploy -- status | npm run deploy -- destroy

           makes the network volume, the template and the endpoint on RunPod what infra/deploy/endpoint.json says
           --dry-run    only shows what would be made or changed, and ends with 2 if that is anything
  status   the endpoint, its workers, its jobs, and how far a new release has come
  destroy  deletes the endpoint with all its jobs, and the template, once you have typed the name
           --yes        without being asked
           --volume     the network volume, too; else it stays, and is billed

  --file FILE  instead of infra/deploy/endpoint.json

RUNPOD_API_KEY is RunPod's key, with read and write access. IMAGE names the image, if endpoint.json does not. What endpoint.json
lists under env gets its values from the environment. A value may be a reference to one of RunPod's secrets:
BUCKET_SECRET_ACCESS_KEY='{{ RUNPOD_SECRET_bucket }}'.

It ends with 0, or with 1 where something is wrong.
`;

export interface Surroundings {
  env: NodeJS.ProcessEnv;
  out: { write(text: string): unknown };
  err: { write(text: string): unknown };
  /** @returns what was typed */
  ask: (question: string) => Promise<string>;
  /** in place of the passing of time */
  pause?: (milliseconds: number) => Promise<unknown>;
}

interface Context {
  file: EndpointFile;
  env: NodeJS.ProcessEnv;
  rest: Rest;
  /** one line */
  say: (text: string) => void;
  ask: Surroundings['ask'];
  flags: Flags;
  /** what was made or changed so far */
  done: string[];
}

/** @returns the exit status; what went wrong is on `err` */
export async function main(args: string[], surroundings: Surroundings): Promise<number> {
  const { out, err } = surroundings;
  const done: string[] = [];
  try {
    const { command, flags } = readArguments(args);
    if (flags.help) {
      out.write(USAGE);
      return 0;
    }
    return await COMMANDS[command].run(openContext(flags, done, surroundings));
  } catch (error) {
    err.write(`${(error as Error).message}\n`);
    if (done.length > 0) err.write(`Done so far: ${done.join(', ')}. Running this again goes on from there.\n`);
    return 1;
  }
}

const COMMANDS = {
  deploy: { options: ['dry-run'], run: deploy },
  status: { options: [], run: status },
  destroy: { options: ['yes', 'volume'], run: destroy },
} satisfies Record<string, { options: string[]; run(context: Context): Promise<number> }>;

const OPTIONS = {
  file: { type: 'string', default: ENDPOINT_FILE },
  'dry-run': { type: 'boolean', default: false },
  yes: { type: 'boolean', default: false },
  volume: { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
} as const;
type Flags = ReturnType<typeof parseArgs<{ options: typeof OPTIONS }>>['values'];

function readArguments(args: string[]): { command: keyof typeof COMMANDS; flags: Flags } {
  let parsed: ReturnType<typeof parseArgs<{ options: typeof OPTIONS; allowPositionals: true }>>;
  try {
    parsed = parseArgs({ args, options: OPTIONS, allowPositionals: true });
  } catch (error) {
    throw new Error((error as Error).message.split(/[.\n]/)[0]); // what follows are hints on quoting
  }
  const { values: flags, positionals } = parsed;
  const [command = 'deploy', ...more] = positionals;
  if (!Object.hasOwn(COMMANDS, command) || more.length > 0) throw new Error(USAGE.trimEnd());
  const options: string[] = [...COMMANDS[command as keyof typeof COMMANDS].options, 'file', 'help'];
  for (const [name, value] of Object.entries(flags))
    if (value === true && !options.includes(name)) throw new Error(`--${name}: not for ${command}`);
  return { command: command as keyof typeof COMMANDS, flags };
}

function openContext(flags: Flags, done: string[], { env, out, ask, pause }: Surroundings): Context {
  const file = readEndpointFile(flags.file);
  const { RUNPOD_API_KEY, RUNPOD_REST_URL, RUNPOD_BASE_URL } = readEnvironment(
    {
      RUNPOD_API_KEY: v.pipe(v.string(), v.regex(/^[\x21-\x7e]+$/, 'must be a key, as RunPod’s console shows it')),
      RUNPOD_REST_URL: v.optional(httpUrl, 'https://api.runpod.io/v2'),
      RUNPOD_BASE_URL: v.optional(httpUrl, 'https://api.runpod.ai/v2'),
    },
    env,
  );
  const say = (text: string) => void out.write(`${text}\n`);
  const values = [...file.env.required, ...file.env.optional].map((name) => env[name] ?? '');
  const rest = openRest({
    apiKey: RUNPOD_API_KEY,
    baseUrl: RUNPOD_REST_URL,
    jobsUrl: RUNPOD_BASE_URL,
    secrets: [RUNPOD_API_KEY, ...values],
    say,
    ...(pause && { pause }),
  });
  return { file, env, rest, say, ask, flags, done };
}

// deploy

async function deploy(context: Context): Promise<number> {
  const { file, env, rest, say, flags } = context;
  const image = imageOf(file, env);
  const workerEnv = workerEnvironment(file, env);

  // All is read and checked before anything is made.
  const gpus = await rest.gpus(file.gpu);
  checkGpus(file, gpus);
  const volume = await findVolume(context);
  const template = await rest.find(TEMPLATES, file.name);
  if (template && !template.serverless)
    throw new Error(
      `the template ${file.name} (${template.id}) is one for pods, and not ours: give another name in endpoint.json`,
    );
  const endpoint = await findEndpoint(context);

  const settledVolume = volume.wanted
    ? await settle(context, VOLUMES, volume.name, volume.found, volume.wanted, { isIt: volume.isIt })
    : { now: volume.found, changed: [] };

  const container = { image, args: 'worker', disk: file.disk, ports: [], registry: file.registry ?? null };
  const settledTemplate = await settle(context, TEMPLATES, file.name, template, {
    ...container,
    env: {}, // secrets are kept in one place, the endpoint
    serverless: true,
    public: false,
    category: 'NVIDIA',
    startSsh: false,
    startJupyter: false,
    allowedCudaVersions: [],
  });

  const wanted = {
    ...container,
    env: workerEnv,
    ...endpointValues(file),
    dataCenterIds: volume.dataCenter ? [volume.dataCenter] : file.dataCenterIds,
    networkVolumes: file.networkVolume ? [settledVolume.now?.id ?? '(the new one)'] : [],
  };
  // A template counts when an endpoint is made, and never after: from then on the endpoint itself is changed.
  const creation = { type: 'QUEUE', templateId: settledTemplate.now?.id };
  const isIt = isEndpoint(file.name);
  const settled = await settle(context, ENDPOINTS, file.name, endpoint, wanted, { creation, isIt });

  say('');
  for (const line of prices(file, gpus, wanted.dataCenterIds)) say(line);
  for (const line of remarks(file, image, workerEnv)) say(line);
  if (flags['dry-run']) {
    const isChanged = [settledVolume, settledTemplate, settled].some(({ changed }) => changed.length > 0);
    say(isChanged ? 'Nothing was changed: this was a dry run.' : 'There is nothing to change.');
    return isChanged ? 2 : 0;
  }
  if (endpoint && settled.changed.some((field) => field in container || field === 'env'))
    say('Idle workers are replaced at once, others after their job; npm run deploy -- status shows how far that is.');
  const model = (env.MODEL || 'svd_xt') === file.model ? '' : `MODEL=${file.model} `; // which the API is to have, too
  say(nextStep(`${model}RUNPOD_ENDPOINT_ID=${settled.now!.id} npm start`, settled.now!.id));
  return 0;
}

/** What endpoint.json says of the endpoint beside its container and its place; also the body that RunPod gets. */
const endpointValues = ({ gpu, workers, scaling, timeout, flashboot }: EndpointFile) => ({
  // RunPod clears neither exclusions nor the other kind of bound by itself: both are said each time.
  gpu: {
    pools: gpu.pools,
    excludedTypes: gpu.excludedTypes,
    count: 1,
    minCudaVersion: gpu.minCudaVersion,
    allowedCudaVersions: [],
  },
  workers,
  scaling,
  timeout,
  flashboot,
});

/** RunPod once marked an endpoint with FlashBoot in its name. */
const isEndpoint = (name: string) => (one: Listed) => one.name.replace(/ -fb$/, '') === name;

/** @throws Error: it is not one of ours */
async function findEndpoint({ file: { name }, rest }: Context): Promise<Endpoint | undefined> {
  const endpoint = await rest.find(ENDPOINTS, name, isEndpoint(name));
  if (endpoint && (endpoint.type !== 'QUEUE' || !endpoint.gpu))
    throw new Error(
      `the endpoint ${name} (${endpoint.id}) is one ${endpoint.gpu ? 'for load balancing' : 'on processors'}, which can’t be changed: give another name in endpoint.json`,
    );
  return endpoint;
}

/**
 * The volume that endpoint.json means: the one with its id, or its name and data center.
 * @returns `wanted`: what it is to be, where it is ours to make or change
 */
async function findVolume({ file: { networkVolume }, rest, say }: Context) {
  if (!networkVolume) return {};
  if ('id' in networkVolume) {
    const found = await rest.volume(networkVolume.id);
    return { found, dataCenter: found.dataCenter };
  }
  const { name, size, dataCenter } = networkVolume;
  const isIt = (one: Listed) => one.name === name && one.dataCenter === dataCenter; // names need not be unique
  const found = await rest.find(VOLUMES, name, isIt);
  if (found && found.size > size)
    say(`network volume ${name}: stays at ${found.size} GB, for none can be made smaller; endpoint.json says ${size}`);
  return { found, name, isIt, dataCenter, wanted: { size: Math.max(size, found?.size ?? 0), dataCenter } };
}

/** @throws Error that names the field and what is known */
function checkGpus({ gpu: { pools, excludedTypes } }: EndpointFile, gpus: Gpu[]) {
  const known = [...new Set(gpus.flatMap(({ pool }) => pool ?? []))];
  for (const pool of pools.filter((one) => !known.includes(one)))
    throw new Error(
      `gpu.pools: ${pool} is ${describeUnknownName(pool, known, `unknown; RunPod has ${known.sort().join(', ')}`)}`,
    );
  const types = gpus.filter(({ pool }) => pools.includes(pool ?? '')).map(({ id }) => id);
  for (const type of excludedTypes.filter((one) => !types.includes(one)))
    throw new Error(`gpu.excludedTypes: ${type} is not in these pools, which have ${types.join(', ')}`);
  if (types.every((type) => excludedTypes.includes(type)))
    throw new Error('gpu.excludedTypes: must leave at least one GPU type of the pools');
}

type Values = Record<string, unknown>;

/**
 * Makes what is not there, changes what differs, and says so; in a dry run only says so.
 * @param creation goes into the body of a creation only
 * @returns what there is then, and the fields of it that are (or would be) new
 */
async function settle<T extends { id: string; name: string }>(
  { rest, say, flags, done }: Context,
  kind: Kind<T>,
  name: string,
  found: T | undefined,
  wanted: Values,
  { creation = {}, isIt }: { creation?: Values; isIt?: (one: Listed) => boolean } = {},
): Promise<{ now: T | undefined; changed: string[] }> {
  const differences = compare(found as Values | undefined, wanted);
  const title = `${kind.noun} ${name}`;
  if (found && differences.length === 0) {
    say(`${title}: as it should be`);
    return { now: found, changed: [] };
  }
  let now = found;
  if (!flags['dry-run']) {
    const changed = Object.entries(wanted).filter(([key]) => differences.some(({ top }) => top === key));
    now = found
      ? await rest.change(kind, found, Object.fromEntries(changed))
      : await rest.create(kind, { name, ...creation, ...wanted }, isIt);
    done.push(`${title} (${now.id})`);
  }
  say(`${title}: ${flags['dry-run'] ? 'would be ' : ''}${found ? 'changed' : 'created'}`);
  const width = Math.max(...differences.map(({ field }) => field.length));
  for (const { field, from, to } of differences)
    say(`  ${field.padEnd(width)}  ${found && from !== undefined ? `${from} → ${to}` : to}`);
  const ignored = now === found ? [] : compare(now as Values, wanted);
  if (ignored.length > 0)
    say(`  RunPod does not show what it was told: ${ignored.map(({ field }) => field).join(', ')}`);
  return { now, changed: differences.map(({ top }) => top) };
}

interface Difference {
  /** as it is shown: workers.max */
  field: string;
  /** the body's own field: workers */
  top: string;
  /** undefined where values are not shown */
  from?: string;
  to: string;
}

/** Where what is there differs from what is wanted, in the fields that are wanted. No variable's value is in it. */
function compare(there: Values = {}, wanted: Values): Difference[] {
  return Object.entries(wanted).flatMap(([top, value]): Difference[] => {
    const now = there[top];
    if (top === 'env') return compareVariables((now ?? {}) as Variables, value as Variables);
    const [before, after] = [now, value].map((one) => flat(top, one));
    const names = [...new Set([...Object.keys(after!), ...Object.keys(before!)])];
    return names
      .map((field) => ({ field, top, from: before![field] ?? 'none', to: after![field] ?? 'none' }))
      .filter(({ from, to }) => from !== to);
  });
}

type Variables = Record<string, string>;

function compareVariables(now: Variables, wanted: Variables): Difference[] {
  const names = [...new Set([...Object.keys(wanted), ...Object.keys(now)])];
  return names
    .filter((name) => now[name] !== wanted[name])
    .map((name) => {
      const to = now[name] === undefined ? 'set' : wanted[name] === undefined ? 'removed' : 'changed';
      return { field: `env.${name}`, top: 'env', to };
    });
}

/** A field's value in words, or its parts' values: lists are sets, and what is empty is none. */
function flat(name: string, value: unknown): Record<string, string> {
  if (value === undefined || value === null || value === '') return {};
  if (Array.isArray(value)) return value.length > 0 ? { [name]: [...value].sort().join(', ') } : {};
  if (typeof value !== 'object') return { [name]: String(value) };
  return Object.assign({}, ...Object.entries(value).map(([part, inner]) => flat(`${name}.${part}`, inner)));
}

/** What a worker costs and whether one can be had now, a line for each GPU type. */
function prices(
  { gpu: { pools, excludedTypes, minCudaVersion } }: EndpointFile,
  gpus: Gpu[],
  places: string[],
): string[] {
  const where = places.length > 0 ? ` in ${places.join(', ')}` : '';
  const eligible = gpus.filter(({ id, pool }) => pools.includes(pool ?? '') && !excludedTypes.includes(id));
  return eligible.map(({ name, pool, memory, price: { serverless }, availability, dataCenters }) => {
    const price =
      serverless === undefined ? 'no price' : `${serverless} USD/h (${(serverless / HOUR).toPrecision(3)} a second)`;
    const here = dataCenters.filter(({ id }) => places.includes(id)).map((place) => place.availability);
    const stock = places.length === 0 ? availability : (here.find((level) => level !== 'NONE') ?? 'NONE');
    return `${pool}: ${name}, ${memory} GB, ${price}; free with CUDA ${minCudaVersion}${where}: ${(stock ?? 'NONE').toLowerCase()}`;
  });
}

/** What is allowed, and may yet not be what was meant. */
function remarks({ workers }: EndpointFile, image: string, workerEnv: Variables): string[] {
  return [
    /(:latest|\/[^:@]+|^[^:@/]+)$/.test(image) &&
      'The image has no tag of its own: a new build under the same name is no change to RunPod, and workers keep the old one.',
    !workerEnv.MIDJOURNEY_BRIDGE && 'Without MIDJOURNEY_BRIDGE prompts fail with no_bridge; pictures do not need it.',
    workers.max === 0 && 'With workers.max 0 no job is ever taken.',
  ].filter((line) => line !== false);
}

const nextStep = (start: string, id: string) => `
The endpoint is ${id}. Start the API, with RUNPOD_API_KEY and the BUCKET_ variables set as they are here:

    ${start}

It then listens for this machine. For others put it behind https and say where that is:

    HOST=0.0.0.0 PUBLIC_URL=https://video.example.com ${start}`;

// status

async function status(context: Context): Promise<number> {
  const { file, env, rest, say } = context;
  const endpoint = await findEndpoint(context);
  if (!endpoint) throw new Error(`there is no endpoint ${file.name}; npm run deploy makes it`);
  const workers = await rest.workers(endpoint);
  const { rollout, releases } = await rest.releases(endpoint);
  const jobs = await jobsOf(context, endpoint);
  const { min, max, idleTimeout } = endpoint.workers;

  say(`endpoint  ${endpoint.name} (${endpoint.id}), since ${endpoint.createdAt}`);
  say(`image     ${endpoint.image}`);
  say(
    `jobs      ${inWords(jobs)}${jobs ? `; ${jobs.completed} completed, ${jobs.failed} failed, ${jobs.retried} retried` : ''}`,
  );
  say(
    `workers   ${min} to ${max}${idleTimeout === undefined ? '' : `, each ends after ${idleTimeout} s without work`}; ${workers.length} now`,
  );
  for (const { id, status, gpuTypeId, dataCenterId, uptimeSeconds, version, isStale } of workers)
    say(
      `  ${[
        `${id} ${status}`,
        gpuTypeId ?? 'not placed yet',
        dataCenterId,
        uptimeSeconds && `up ${uptimeSeconds} s`,
        isStale && `still on release ${version ?? 'before'}`,
      ]
        .filter(Boolean)
        .join(', ')}`,
    );
  for (const { version, createdAt, diff } of releases.slice(0, 1)) {
    const changed = [...new Set(diff.map(({ field }) => field))].join(', ');
    say(`release   ${version ?? 'unnumbered'} of ${createdAt}${changed && `, which changed ${changed}`}`);
  }
  say(
    `rollout   ${rollout.inProgress ? 'under way' : 'done'}: ${rollout.workersOnLatest} of ${rollout.workersTotal} workers have the latest release`,
  );

  // What env holds is compared by deploy, which has the values.
  const image = env.IMAGE || file.image;
  const differences = compare(endpoint, { ...(image && { image }), disk: file.disk, ...endpointValues(file) });
  for (const { field, from, to } of differences) say(`differs   ${field} is ${from}, and wanted is ${to}`);
  if (max < file.workers.max && (max === 2 || max === 0))
    say(
      `note      RunPod lowers an endpoint's most workers to 2 after three days without a request, and to 0 after seven; npm run deploy raises them again`,
    );
  for (const line of advice(
    workers.map((worker) => worker.status),
    jobs?.inQueue ?? 0,
    max,
  ))
    say(`note      ${line}`);
  return 0;
}

function advice(statuses: string[], inQueue: number, max: number): string[] {
  const has = (status: string) => statuses.includes(status);
  return [
    has('UNHEALTHY') && 'an unhealthy worker did not start: its log in RunPod’s console says why',
    has('THROTTLED') && 'a throttled worker waits for a free GPU: more pools, or another data center, would help',
    inQueue > 0 &&
      max > 0 &&
      statuses.length === 0 &&
      'jobs wait and there is no worker: no GPU of the pools may be free',
    inQueue > 0 && max === 0 && 'jobs wait, and no worker may start',
  ].filter((line) => line !== false);
}

// destroy

async function destroy(context: Context): Promise<number> {
  const { file, rest, say, ask, flags, done } = context;
  const { name, networkVolume } = file;
  const isOurs = networkVolume && !('id' in networkVolume);
  if (flags.volume && !isOurs)
    throw new Error('--volume: endpoint.json names no volume by its name; others are not ours to delete');
  const endpoint = await findEndpoint(context);
  const template = await rest.find(TEMPLATES, name);
  const { found: volume } = isOurs ? await findVolume(context) : {};
  const doomed = [
    [ENDPOINTS, endpoint],
    [TEMPLATES, template?.serverless ? template : undefined], // RunPod may delete it with the endpoint
    [VOLUMES, flags.volume ? volume : undefined],
  ] as const;
  if (doomed.every(([, thing]) => !thing)) say(`there is no endpoint ${name}, and no template`);
  else {
    if (endpoint)
      say(`endpoint ${name} (${endpoint.id}): its jobs would be lost (${inWords(await jobsOf(context, endpoint))})`);
    if (flags.volume && volume)
      say(`network volume ${volume.name} (${volume.id}): its ${volume.size} GB would be lost`);
    if (!flags.yes && (await ask(`Type ${name} to delete it for good: `)).trim() !== name)
      throw new Error('nothing was deleted');
  }
  for (const [kind, thing] of doomed) {
    if (!thing) continue;
    const wasThere = await rest.remove(kind, thing);
    say(`${kind.noun} ${thing.name} (${thing.id}): ${wasThere ? 'deleted' : 'was gone already'}`);
    done.push(`${kind.noun} ${thing.name} deleted`);
  }
  if (volume && !flags.volume)
    say(`The network volume ${volume.name} (${volume.id}) stays, and is billed; --volume would delete it.`);
  return 0;
}

type Jobs = Awaited<ReturnType<Rest['jobs']>>;

/** They are counted by another API than the rest, which may be down when this one is not. */
const jobsOf = ({ rest, say }: Context, endpoint: Endpoint): Promise<Jobs | undefined> =>
  rest.jobs(endpoint).catch((error) => void say((error as Error).message));

const inWords = (jobs: Jobs | undefined) =>
  jobs ? `${jobs.inQueue} in the queue, ${jobs.inProgress} in progress` : 'not counted';

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const ask = async (question: string) => {
    const terminal = createInterface({ input: process.stdin, output: process.stdout });
    try {
      const closed = new Promise<string>((resolve) => terminal.once('close', () => resolve('')));
      return await Promise.race([terminal.question(question), closed]);
    } finally {
      terminal.close();
    }
  };
  const { env, stdout: out, stderr: err } = process;
  process.exitCode = await main(process.argv.slice(2), { env, out, err, ask });
}
