import type { Logger } from 'pino';
import type { DiskBucket } from '../handler/bucket/disk.ts';
import type { Config } from './config.ts';
import type { Store } from './store/store.ts';
import type { Lifecycle } from './tasks/lifecycle.ts';

/** What routes are made of. */
export interface Services {
  config: Config;
  store: Store;
  bucket: DiskBucket;
  lifecycle: Lifecycle;
  log: Logger;
  /** milliseconds since 1970 */
  now: () => number;
}
