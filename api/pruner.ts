import { HOUR, MINUTE } from '../core/time.ts';
import type { Dependencies } from './dependencies.ts';
import { createPoller, type Poller } from './poller.ts';

/** @returns a poller that deletes old rows from the store, hourly, once it is woken */
export function createPruner({ config, store, log, now }: Dependencies): Poller {
  const prune = async () => ((await store.prune(config.retain, now())) ? 0 : HOUR);
  return createPoller(prune, (error) => {
    log.error({ error }, 'old rows of the store could not be deleted; will be retried');
    return MINUTE;
  });
}
