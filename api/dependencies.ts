import type { Logger } from 'pino';
import type { Bucket } from '../core/bucket/bucket.ts';
import type { Config } from './config.ts';
import type { RunPod } from './runpod.ts';
import type { Store } from './store/store.ts';

/** What services.ts opens, for the parts of the service. */
export interface Dependencies {
  config: Config;
  store: Store;
  bucket: Bucket;
  runpod: RunPod;
  /** RunPod is a simulator on this machine: its worker may have no GPU, and it does not limit status requests */
  isQueueLocal: boolean;
  log: Logger;
  /** milliseconds since 1970 */
  now: () => number;
  /** milliseconds by a clock that nobody sets: for times that only this process remembers */
  uptime: () => number;
}
