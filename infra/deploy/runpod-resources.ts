/**
 * What RunPod's REST v2 answers, as far as `npm run deploy` reads it; the other fields are only compared. Units are RunPod's: GB,
 * seconds, milliseconds for `timeout`.
 */
import * as v from 'valibot';

const LISTED = v.looseObject({ id: v.string(), name: v.nullish(v.string(), '') });
export type Listed = v.InferOutput<typeof LISTED>;

/** What a resource is found by; a network volume has a data center, too. */
export interface Wanted extends Record<string, unknown> {
  name: string;
}

/** Resources that are created, found by name, changed and deleted in the same way. */
export interface Kind<T> {
  noun: string;
  path: string;
  /** The field of a list's answer that has the resources. */
  key: string;
  schema: v.GenericSchema<unknown, T>;
  isMatch(one: Listed, wanted: Wanted): boolean;
}

const kind = <E extends v.ObjectEntries>(noun: string, path: string, key: string, entries: E) => ({
  noun,
  path,
  key,
  schema: v.looseObject({ id: v.string(), name: v.string(), ...entries }),
  isMatch: (one: Listed, { name }: Wanted) => one.name === name,
});

export const VOLUMES = {
  ...kind('network volume', '/network-volumes', 'networkVolumes', { size: v.number(), dataCenter: v.string() }),
  isMatch: (one: Listed, { name, dataCenter }: Wanted) => one.name === name && one.dataCenter === dataCenter,
};
export type Volume = v.InferOutput<typeof VOLUMES.schema>;

export const TEMPLATES = kind('template', '/templates', 'templates', { serverless: v.boolean() });

export const ENDPOINTS = {
  ...kind('endpoint', '/serverless', 'endpoints', {
    type: v.optional(v.string(), 'QUEUE'),
    image: v.optional(v.string(), ''),
    gpu: v.nullish(v.looseObject({})),
    workers: v.looseObject({ min: v.number(), max: v.number(), idleTimeout: v.optional(v.number()) }),
    createdAt: v.string(),
  }),
  /** RunPod has been seen to append -fb to the name of an endpoint with FlashBoot. */
  isMatch: (one: Listed, { name }: Wanted) => one.name.replace(/ -fb$/, '') === name,
};
export type Endpoint = v.InferOutput<typeof ENDPOINTS.schema>;

/** The resources of a list's answer. Other resources of the account may have other forms. */
export const listSchema = (key: string) => v.object({ [key]: v.array(LISTED) });

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
