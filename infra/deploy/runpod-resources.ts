/**
 * What RunPod's REST v2 answers, as far as `npm run deploy` reads it; the other fields are only compared. Units are RunPod's: GB,
 * seconds, milliseconds for `timeout`.
 */
import * as v from 'valibot';

const NAMED = { id: v.string(), name: v.string() };
const VOLUME = v.looseObject({ ...NAMED, size: v.number(), dataCenter: v.string() });
const TEMPLATE = v.looseObject({ ...NAMED, serverless: v.boolean() });
const ENDPOINT = v.looseObject({
  ...NAMED,
  type: v.optional(v.string(), 'QUEUE'),
  image: v.optional(v.string(), ''),
  gpu: v.nullish(v.looseObject({ count: v.optional(v.number(), 1) })),
  workers: v.looseObject({ min: v.number(), max: v.number(), idleTimeout: v.optional(v.number()) }),
  createdAt: v.string(),
});

export type Volume = v.InferOutput<typeof VOLUME>;
export type Endpoint = v.InferOutput<typeof ENDPOINT>;

/** Resources that are created, found by name, changed and deleted in the same way. */
export interface Kind<T> {
  noun: string;
  path: string;
  /** The field of a list's answer that has the resources. */
  key: string;
  schema: v.GenericSchema<unknown, T>;
}
export const VOLUMES: Kind<Volume> = {
  noun: 'network volume',
  path: '/network-volumes',
  key: 'networkVolumes',
  schema: VOLUME,
};
export const TEMPLATES: Kind<v.InferOutput<typeof TEMPLATE>> = {
  noun: 'template',
  path: '/templates',
  key: 'templates',
  schema: TEMPLATE,
};
export const ENDPOINTS: Kind<Endpoint> = { noun: 'endpoint', path: '/serverless', key: 'endpoints', schema: ENDPOINT };

const GPU = v.object({
  id: v.string(),
  name: v.string(),
  pool: v.nullable(v.string()),
  memory: v.number(),
  /** USD per hour */
  price: v.object({ serverless: v.optional(v.number()) }),
  availability: v.optional(v.string()),
  dataCenters: v.optional(v.array(v.object({ id: v.string(), availability: v.string() })), []),
});
export type Gpu = v.InferOutput<typeof GPU>;
export const GPUS = v.object({ gpus: v.array(GPU) });

export const WORKERS = v.object({
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

/** Only the names of a release's changed fields are read: the values hold the environment. */
export const RELEASES = v.object({
  rollout: v.object({ inProgress: v.boolean(), workersOnLatest: v.number(), workersTotal: v.number() }),
  releases: v.array(
    v.object({
      version: v.nullish(v.number()),
      createdAt: v.string(),
      diff: v.array(v.object({ field: v.string() })),
    }),
  ),
});

const COUNT = v.optional(v.number(), 0);
/** Of the endpoints' own API. */
export const HEALTH = v.object({
  jobs: v.object({ inQueue: COUNT, inProgress: COUNT, completed: COUNT, failed: COUNT, retried: COUNT }),
});
