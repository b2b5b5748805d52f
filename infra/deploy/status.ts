import type * as v from 'valibot';
import { endpointBody } from './endpoint.ts';
import type { EndpointFile } from './endpoint-file.ts';
import { compare } from './reconcile.ts';
import { ENDPOINTS, type Endpoint, HEALTH, RELEASES, WORKERS } from './runpod-resources.ts';
import type { Rest } from './runpod-rest.ts';

export type Jobs = v.InferOutput<typeof HEALTH>['jobs'];

/** @returns the job counts; undefined, with a log line, where the endpoints' own API fails: it is another one than REST */
export async function countJobs(
  rest: Rest,
  { id }: Endpoint,
  { jobsUrl, log }: { jobsUrl: string; log: (line: string) => void },
): Promise<Jobs | undefined> {
  try {
    return (await rest.call({ task: 'count the jobs', url: `${jobsUrl}/${id}/health`, schema: HEALTH })).jobs;
  } catch (error) {
    log((error as Error).message);
    return undefined;
  }
}

export const formatJobs = (jobs: Jobs | undefined) =>
  jobs ? `${jobs.inQueue} in the queue, ${jobs.inProgress} in progress` : 'not counted';

/** @returns lines on the endpoint, its workers and jobs, the latest release, and what differs from `file` */
export async function describeEndpoint(
  rest: Rest,
  endpoint: Endpoint,
  { file, image, jobs }: { file: EndpointFile; image: string | undefined; jobs: Jobs | undefined },
): Promise<string[]> {
  const path = `${ENDPOINTS.path}/${endpoint.id}`;
  const { workers } = await rest.call({ task: 'list the workers', url: `${path}/workers`, schema: WORKERS });
  const { rollout, releases } = await rest.call({
    task: 'list the releases',
    url: `${path}/releases`,
    schema: RELEASES,
  });
  const { min, max, idleTimeout } = endpoint.workers;
  const ended = jobs ? `; ${jobs.completed} completed, ${jobs.failed} failed, ${jobs.retried} retried` : '';
  const idle = idleTimeout === undefined ? '' : `, each ends after ${idleTimeout} s without work`;
  const latest = releases.slice(0, 1).map(({ version, createdAt, diff }) => {
    const fields = [...new Set(diff.map(({ field }) => field))].join(', ');
    return `release   ${version ?? 'unnumbered'} of ${createdAt}${fields && `, which changed ${fields}`}`;
  });
  const statuses = workers.map(({ status }) => status);
  const isLowered = max < file.workers.max && (max === 2 || max === 0);
  const isWaiting = jobs !== undefined && jobs.inQueue > 0;
  const notes = [
    isLowered &&
      'RunPod lowers an endpoint’s workers.max to 2 after three days without a request, and to 0 after seven; npm run deploy raises it again',
    statuses.includes('UNHEALTHY') && 'an unhealthy worker did not start: see its log in RunPod’s console',
    statuses.includes('THROTTLED') &&
      'a throttled worker waits for a free GPU: more pools, or another data center, would help',
    isWaiting && max > 0 && statuses.length === 0 && 'jobs wait without a worker: no GPU of the pools may be free',
    isWaiting && max === 0 && 'jobs wait, and no worker may start',
  ];
  // Variables are compared by deploy, which has their values.
  const wanted = { ...(image && { image }), disk: file.disk, ...endpointBody(file) };
  return [
    `endpoint  ${endpoint.name} (${endpoint.id}), since ${endpoint.createdAt}`,
    `image     ${endpoint.image}`,
    `jobs      ${formatJobs(jobs)}${ended}`,
    `workers   ${min} to ${max}${idle}; ${workers.length} now`,
    ...workers.map(describeWorker),
    ...latest,
    `rollout   ${rollout.inProgress ? 'in progress' : 'complete'}: ${rollout.workersOnLatest} of ${rollout.workersTotal} workers have the latest release`,
    ...compare(endpoint, wanted).map(({ path, from, to }) => `differs   ${path} is ${from}, should be ${to}`),
    ...notes.filter((line) => line !== false).map((line) => `note      ${line}`),
  ];
}

type Worker = v.InferOutput<typeof WORKERS>['workers'][number];

function describeWorker({ id, status, gpuTypeId, dataCenterId, uptimeSeconds, version, isStale }: Worker): string {
  const parts = [
    `${id} ${status}`,
    gpuTypeId ?? 'not placed yet',
    dataCenterId,
    uptimeSeconds && `up ${uptimeSeconds} s`,
    isStale && `still on release ${version ?? 'before'}`,
  ];
  return `  ${parts.filter(Boolean).join(', ')}`;
}
