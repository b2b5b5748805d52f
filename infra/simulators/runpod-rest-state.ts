/** What the simulator of RunPod's REST v2 keeps, and the catalog that it offers. */
import { randomBytes } from 'node:crypto';
import type { Context } from 'hono';
import { Problem } from './runpod-rest-document.ts';

export type Resource = Record<string, unknown> & { id: string; name: string };

export interface RestServerOptions {
  apiKey: string;
  /** how many workers all endpoints may have together; default 5 */
  quota?: number;
  /** whether a template in use can't be deleted, and goes with its endpoint; default false. RunPod's document leaves it open. */
  bindsTemplates?: boolean;
}

export type RestState = ReturnType<typeof createState>;

export const createState = ({ quota = 5, bindsTemplates = false }: RestServerOptions) => ({
  ...{ quota, bindsTemplates },
  endpoints: new Map<string, Resource>(),
  templates: new Map<string, Resource>(),
  volumes: new Map<string, Resource>(),
  /** by endpoint, as RunPod lists them; only tests add some */
  workers: new Map<string, Record<string, unknown>[]>(),
  /** by endpoint, oldest first */
  releases: new Map<string, Resource[]>(),
  /** the id of each endpoint's template */
  boundTemplates: new Map<string, string>(),
});

export const newId = () => randomBytes(5).toString('hex');

/** @throws Problem 404 */
export function findResource(c: Context, resources: Map<string, Resource>): Resource {
  const resource = resources.get(c.req.param('id')!);
  if (!resource) throw new Problem(404, 'resource not found');
  return resource;
}

/** Memory in GB; the serverless price in USD an hour; availability by data center. */
export const GPUS = [
  ['NVIDIA L4', 'L4', 'AMPERE_24', 24, 0.69, { 'EU-RO-1': 'HIGH', 'US-KS-2': 'LOW' }],
  ['NVIDIA GeForce RTX 3090', 'RTX 3090', 'AMPERE_24', 24, 0.69, { 'EU-SE-1': 'MEDIUM' }],
  ['NVIDIA GeForce RTX 4090', 'RTX 4090', 'ADA_24', 24, 1.1, { 'EU-RO-1': 'MEDIUM', 'US-KS-2': 'HIGH' }],
  ['NVIDIA A40', 'A40', 'AMPERE_48', 48, 1.22, { 'EU-SE-1': 'HIGH' }],
  ['NVIDIA RTX A6000', 'RTX A6000', 'AMPERE_48', 48, 1.22, { 'EU-RO-1': 'NONE', 'US-KS-2': 'LOW' }],
  ['Tesla V100-PCIE-16GB', 'Tesla V100', null, 16, undefined, {}],
].map(([id, name, pool, memory, price, stock]) => ({ id, name, pool, memory, price, stock }) as Gpu);

interface Gpu {
  id: string;
  name: string;
  pool: string | null;
  memory: number;
  price: number | undefined;
  stock: Record<string, string>;
}
