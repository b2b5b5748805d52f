/**
 * `npm run deploy`: makes the endpoint on RunPod, with its template and network volume, what `infra/deploy/endpoint.json` says. Each is
 * identified by its name, so a run that was interrupted is continued by the next.
 */
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import * as v from 'valibot';
import { userPath } from '../../client/files.ts';
import { httpUrl, readEnvironment } from '../../core/environment.ts';
import { hasBridge } from '../../handler/still/bridges/open-bridges.ts';
import { type Action, type CliIo, defineCommand, runIfMain, UsageError, type Values } from '../tools/command.ts';
import { checkGpus, describeGpus, endpointBody, findEndpoint, findVolume } from './endpoint.ts';
import { type EndpointFile, imageOf, readEndpointFile, workerEnvironment } from './endpoint-file.ts';
import { type ReconcileOptions, reconcile } from './reconcile.ts';
import { ENDPOINTS, GPUS, TEMPLATES, VOLUMES } from './runpod-resources.ts';
import { openRest } from './runpod-rest.ts';
import { countJobs, describeEndpoint, formatJobs } from './status.ts';

const ENDPOINT_FILE = fileURLToPath(new URL('endpoint.json', import.meta.url));

const FILE = { file: { value: 'FILE', help: 'instead of infra/deploy/endpoint.json' } } as const;
const DEPLOY_OPTIONS = {
  'dry-run': { help: 'prints what it would create or change, and changes nothing; exit status 2 if there is anything' },
  ...FILE,
} as const;
const DESTROY_OPTIONS = {
  yes: { help: 'does not ask for the name' },
  volume: { help: 'also deletes the network volume; without it the volume stays and is billed' },
  ...FILE,
} as const;

const NOTES = `
RUNPOD_API_KEY is RunPod's key, with read and write access. IMAGE names the worker’s image; it takes precedence over image in endpoint.json. The variables that
endpoint.json lists under env get their values from the environment. A value may refer to one of RunPod's secrets:
BUCKET_SECRET_ACCESS_KEY='{{ RUNPOD_SECRET_bucket }}'.`;

export const DEPLOY_VARIABLES = {
  RUNPOD_API_KEY: v.pipe(v.string(), v.regex(/^[\x21-\x7e]+$/, 'must be a key, as RunPod’s console shows it')),
  RUNPOD_REST_URL: v.optional(httpUrl, 'https://api.runpod.io/v2'),
  RUNPOD_BASE_URL: v.optional(httpUrl, 'https://api.runpod.ai/v2'),
};

export interface DeployIo extends CliIo {
  /** @returns what the operator typed */
  ask?: (question: string) => Promise<string>;
  sleep?: (milliseconds: number) => Promise<unknown>;
}

const ACTIONS: Record<string, Action<DeployIo>> = {
  '': {
    help: 'creates network volume, template and endpoint as in endpoint.json, or changes what differs',
    options: DEPLOY_OPTIONS,
    run: withContext(deploy),
  },
  status: {
    help: 'prints the endpoint, its workers and jobs, and the state of the latest release',
    options: FILE,
    run: withContext(status),
  },
  destroy: {
    help: 'deletes the endpoint with all its jobs, and the template; asks you to type its name first',
    options: DESTROY_OPTIONS,
    run: withContext(destroy),
  },
};

/** @returns the exit status */
export const main = defineCommand('npm run deploy', ACTIONS, NOTES);

type Flags = Values<typeof DEPLOY_OPTIONS & typeof DESTROY_OPTIONS>;

interface Context extends ReconcileOptions {
  file: EndpointFile;
  env: NodeJS.ProcessEnv;
  flags: Flags;
  /** The URL of the endpoints' own API. */
  jobsUrl: string;
  ask: (question: string) => Promise<string>;
}

function withContext(work: (context: Context) => Promise<number | undefined>): Action<DeployIo>['run'] {
  return async ({ env, out, ask = askTerminal, sleep = delay }, flags: Flags) => {
    const file = readEndpointFile(flags.file === undefined ? ENDPOINT_FILE : userPath(flags.file, env));
    const { RUNPOD_API_KEY, RUNPOD_REST_URL, RUNPOD_BASE_URL } = readEnvironment(DEPLOY_VARIABLES, env);
    const log = (line: string) => void out.write(`${line}\n`);
    const secrets = [RUNPOD_API_KEY, ...[...file.env.required, ...file.env.optional].map((name) => env[name] ?? '')];
    const rest = openRest({ apiKey: RUNPOD_API_KEY, baseUrl: RUNPOD_REST_URL, secrets, log, sleep });
    const [done, dryRun]: [string[], boolean] = [[], flags['dry-run'] ?? false];
    try {
      return await work({ file, env, rest, jobsUrl: RUNPOD_BASE_URL, log, ask, flags, dryRun, done });
    } catch (error) {
      if (done.length > 0)
        (error as Error).message += `\nDone so far: ${done.join(', ')}. Running this again continues from there.`;
      throw error;
    }
  };
}

async function deploy(context: Context): Promise<number> {
  const { file, env, rest, log, dryRun } = context;
  const image = imageOf(file, env);
  const workerEnv = workerEnvironment(file, env);

  // Everything is read and checked before anything is created.
  const { minCudaVersion } = file.gpu;
  const query = new URLSearchParams({ include: 'AVAILABILITY', product: 'SERVERLESS', minCudaVersion });
  const { gpus } = await rest.call({ task: 'list the GPUs', url: `/catalog/gpus?${query}`, schema: GPUS });
  checkGpus(file, gpus);
  const { found, wanted: wantedVolume } = await findVolume(context, file);
  const template = await rest.find(TEMPLATES, file);
  if (template && !template.serverless)
    throw new Error(`the template ${file.name} (${template.id}) is one for pods: use another name in endpoint.json`);
  const endpoint = await findEndpoint(rest, file);

  const volume = wantedVolume
    ? await reconcile(context, VOLUMES, found, wantedVolume)
    : { resource: found, changed: [] };
  const container = { image, args: 'worker', disk: file.disk, ports: [], registry: file.registry ?? null };
  const templateNow = await reconcile(context, TEMPLATES, template, {
    name: file.name,
    ...container,
    env: {}, // variables are set only on the endpoint, so that secrets are in one place
    serverless: true,
    public: false,
    category: 'NVIDIA',
    startSsh: false,
    startJupyter: false,
    allowedCudaVersions: [],
  });
  const dataCenter = wantedVolume?.dataCenter ?? found?.dataCenter;
  const wanted = {
    name: file.name,
    ...container,
    env: workerEnv,
    ...endpointBody(file),
    dataCenterIds: dataCenter ? [dataCenter] : file.dataCenterIds,
    networkVolumes: file.networkVolume ? [volume.resource?.id ?? '(the new one)'] : [],
  };
  const creation = { type: 'QUEUE', templateId: templateNow.resource?.id }; // RunPod reads the template only when an endpoint is created
  const endpointNow = await reconcile(context, ENDPOINTS, endpoint, wanted, creation);

  log('');
  for (const line of describeGpus(file, gpus, wanted.dataCenterIds)) log(line);
  for (const line of warnings(file, image, workerEnv)) log(line);
  if (dryRun) {
    const isChanged = [volume, templateNow, endpointNow].some(({ changed }) => changed.length > 0);
    log(isChanged ? 'Nothing was changed: this was a dry run.' : 'There is nothing to change.');
    return isChanged ? 2 : 0;
  }
  if (endpoint && endpointNow.changed.some((field) => field in container || field === 'env'))
    log('Idle workers are replaced at once, others after their job; npm run deploy -- status shows the progress.');
  const model = file.model === (env.MODEL || 'svd_xt') ? '' : `MODEL=${file.model} `; // the API needs the workers' model
  const start = `${model}RUNPOD_ENDPOINT_ID=${endpointNow.resource!.id} npm start`;
  log(`
The endpoint is ${endpointNow.resource!.id}. Start the API, with the same RUNPOD_API_KEY and BUCKET_ variables as here:

    ${start}

It then listens for this machine only. To serve others, put it behind https and set its URL:

    HOST=0.0.0.0 PUBLIC_URL=https://video.example.com ${start}`);
  return 0;
}

/** What is valid, but may not be intended. */
function warnings({ workers }: EndpointFile, image: string, workerEnv: Record<string, string>): string[] {
  return [
    /(:latest|\/[^:@]+|^[^:@/]+)$/.test(image) &&
      'The image has no tag of its own: RunPod does not notice a new build under the same name, and workers keep the old one.',
    !hasBridge(workerEnv) && 'Without STILL_BRIDGE prompts fail with no_bridge; pictures do not need it.',
    workers.max === 0 && 'With workers.max 0 no worker ever takes a job.',
  ].filter((line) => line !== false);
}

async function status(context: Context): Promise<undefined> {
  const { file, env, rest, log } = context;
  const endpoint = await findEndpoint(rest, file);
  if (!endpoint) throw new Error(`there is no endpoint ${file.name}; npm run deploy creates it`);
  const jobs = await countJobs(rest, endpoint, context);
  const lines = await describeEndpoint(rest, endpoint, { file, image: env.IMAGE || file.image, jobs });
  for (const line of lines) log(line);
}

async function destroy(context: Context): Promise<undefined> {
  const { file, rest, log, ask, done } = context;
  const { yes, volume: withVolume } = context.flags;
  const { name, networkVolume } = file;
  const isManaged = networkVolume && 'name' in networkVolume;
  if (withVolume && !isManaged)
    throw new UsageError('--volume deletes only a volume that endpoint.json names by its name');
  const endpoint = await findEndpoint(rest, file);
  const template = await rest.find(TEMPLATES, file);
  const { found: volume } = isManaged ? await findVolume(context, file) : {};
  const resources = [
    [ENDPOINTS, endpoint],
    [TEMPLATES, template?.serverless ? template : undefined], // RunPod may delete it with the endpoint
    [VOLUMES, withVolume ? volume : undefined],
  ] as const;
  if (resources.every(([, resource]) => !resource)) log(`there is no endpoint ${name}, and no template`);
  else {
    if (endpoint) {
      const jobs = formatJobs(await countJobs(rest, endpoint, context));
      log(`endpoint ${name} (${endpoint.id}): its jobs would be lost (${jobs})`);
    }
    if (withVolume && volume) log(`network volume ${volume.name} (${volume.id}): its ${volume.size} GB would be lost`);
    if (!yes && (await ask(`Type ${name} to delete it for good: `)).trim() !== name)
      throw new Error('nothing was deleted');
  }
  for (const [kind, resource] of resources) {
    if (!resource) continue;
    const existed = await rest.remove(kind, resource);
    log(`${kind.noun} ${resource.name} (${resource.id}): ${existed ? 'deleted' : 'was already deleted'}`);
    done.push(`${kind.noun} ${resource.name} deleted`);
  }
  if (volume && !withVolume)
    log(`The network volume ${volume.name} (${volume.id}) stays and is billed; --volume would delete it.`);
}

/** @returns the operator's answer; empty at the end of the input */
async function askTerminal(question: string): Promise<string> {
  process.stdout.write(question);
  for await (const line of createInterface({ input: process.stdin })) return line;
  return '';
}

await runIfMain(import.meta.url, main);
