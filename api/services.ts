import type { Logger } from 'pino';
import type { Bucket } from '../core/bucket/bucket.ts';
import type { DiskBucket } from '../core/bucket/disk.ts';
import type { PresentedTask } from '../core/responses.ts';
import type { Config } from './config.ts';
import type { Metrics } from './metrics.ts';
import type { RunPod } from './runpod.ts';
import type { Store } from './store/store.ts';
import type { ListedTask } from './store/task.ts';
import type { createEstimator } from './tasks/estimate.ts';
import type { Lifecycle } from './tasks/lifecycle.ts';
import type { Webhooks } from './webhooks/sender.ts';

/** What routes are made of. */
export interface Services {
  config: Config;
  store: Store;
  bucket: Bucket;
  /** the bucket, if it is a folder whose links the API itself serves */
  disk: DiskBucket | undefined;
  /** what links begin with, such as https://bucket.example.com */
  linkOrigin: string;
  lifecycle: Lifecycle;
  webhooks: Webhooks;
  estimate: ReturnType<typeof createEstimator>;
  /** a task as clients see it, with freshly signed links */
  presentTask: (task: ListedTask) => Promise<PresentedTask>;
  runpod: RunPod;
  log: Logger;
  metrics: Metrics;
  /** aborted when the process stops: whoever waits for news is answered now */
  stopping: AbortSignal;
  /** milliseconds since 1970 */
  now: () => number;
}
