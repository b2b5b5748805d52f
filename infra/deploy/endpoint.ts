/** The resources of `endpoint.json`: how they are found on RunPod, and what they should be. */
import { describeUnknownName } from '../../core/unknown-names.ts';
import type { EndpointFile } from './endpoint-file.ts';
import type { ReconcileOptions } from './reconcile.ts';
import { ENDPOINTS, type Endpoint, type Gpu, VOLUMES, type Volume, type Wanted } from './runpod-resources.ts';
import type { Rest } from './runpod-rest.ts';

/** @throws Error: an endpoint of that name is of another type */
export async function findEndpoint(rest: Rest, { name }: EndpointFile): Promise<Endpoint | undefined> {
  const endpoint = await rest.find(ENDPOINTS, { name });
  if (endpoint && (endpoint.type !== 'QUEUE' || !endpoint.gpu))
    throw new Error(
      `the endpoint ${name} (${endpoint.id}) is one ${endpoint.gpu ? 'for load balancing' : 'on processors'}, which can’t be changed: use another name in endpoint.json`,
    );
  return endpoint;
}

/**
 * @returns what exists, and what should, except of a volume that is named by its id
 * @throws Error: there is no volume with the id of endpoint.json, or several with its name in its data center
 */
export async function findVolume(
  { rest, log }: ReconcileOptions,
  { networkVolume: volume }: EndpointFile,
): Promise<{ found?: Volume | undefined; wanted?: Wanted & { dataCenter: string } }> {
  if (!volume) return {};
  if ('id' in volume) {
    const { noun, path, schema } = VOLUMES;
    return { found: await rest.call({ task: `find the ${noun} ${volume.id}`, url: `${path}/${volume.id}`, schema }) };
  }
  const { name, size } = volume;
  const found = await rest.find(VOLUMES, volume);
  if (found && found.size > size)
    log(`network volume ${name}: stays at ${found.size} GB, because volumes can’t shrink; endpoint.json says ${size}`);
  return { found, wanted: { ...volume, size: Math.max(size, found?.size ?? 0) } };
}

/** What endpoint.json says of the endpoint apart from its container and place, as RunPod's REST has it. */
export const endpointBody = ({ gpu, workers, scaling, timeout, flashboot }: EndpointFile) => ({
  // RunPod keeps old exclusions and the other kind of version bound unless they are cleared explicitly.
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

/** @throws Error that names the field and what is allowed */
export function checkGpus({ gpu: { pools, excludedTypes } }: EndpointFile, gpus: Gpu[]): void {
  const known = [...new Set(gpus.flatMap(({ pool }) => pool ?? []))].sort();
  for (const pool of pools.filter((one) => !known.includes(one)))
    throw new Error(
      `gpu.pools: ${pool} is ${describeUnknownName(pool, known, `unknown; RunPod has ${known.join(', ')}`)}`,
    );
  const types = gpus.filter(({ pool }) => pools.includes(pool ?? '')).map(({ id }) => id);
  for (const type of excludedTypes.filter((one) => !types.includes(one)))
    throw new Error(`gpu.excludedTypes: ${type} is not in these pools, which have ${types.join(', ')}`);
  if (types.every((type) => excludedTypes.includes(type)))
    throw new Error('gpu.excludedTypes: must leave at least one GPU type of the pools');
}

/** The price and availability of a worker, a line for each GPU type. @param dataCenters none: all */
export function describeGpus({ gpu }: EndpointFile, gpus: Gpu[], dataCenters: string[]): string[] {
  const place = dataCenters.length > 0 ? ` in ${dataCenters.join(', ')}` : '';
  const allowed = gpus.filter(({ id, pool }) => gpu.pools.includes(pool ?? '') && !gpu.excludedTypes.includes(id));
  return allowed.map(({ name, pool, memory, price: { serverless }, ...one }) => {
    const price =
      serverless === undefined ? 'no price' : `${serverless} USD/h (${(serverless / 3600).toPrecision(3)} a second)`;
    const levels = one.dataCenters.filter(({ id }) => dataCenters.includes(id)).map(({ availability }) => availability);
    const level = place ? levels.find((level) => level !== 'NONE') : one.availability;
    return `${pool}: ${name}, ${memory} GB, ${price}; free with CUDA ${gpu.minCudaVersion}${place}: ${(level ?? 'NONE').toLowerCase()}`;
  });
}
