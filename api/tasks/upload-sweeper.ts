import { taskFolder } from '../../core/job.ts';
import { HOUR, MINUTE } from '../../core/time.ts';
import type { Dependencies } from '../dependencies.ts';
import { createPoller, type Poller } from '../poller.ts';

/** Longer than a request needs to write its upload and store its task. */
const MAX_AGE = HOUR;

/** @returns a poller that deletes uploads whose task was never stored, because a process died or the bucket failed; hourly, once it is woken */
export function createUploadSweeper({ store, bucket, log, now }: Dependencies): Poller {
  async function sweep(): Promise<number> {
    for (const id of await store.listUploads(now() - MAX_AGE)) {
      await bucket.delete(taskFolder(id));
      await store.removeUpload(id);
      log.info({ task: id }, 'the upload of a task that was never stored is deleted');
    }
    return MAX_AGE;
  }

  return createPoller(sweep, (error) => {
    log.warn({ error }, 'uploads of tasks that were never stored could not be deleted; will be retried');
    return MINUTE;
  });
}
