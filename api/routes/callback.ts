import * as v from 'valibot';
import { SECOND } from '../../core/time.ts';
import { endpoint } from '../http/endpoint.ts';
import { readBytes } from '../http/read-body.ts';
import { noSuchTask } from './require-own-task.ts';

const MAX_BYTES = 1_000_000;

/** The only part of RunPod's message that is used: which job it is about. */
const message = v.pipe(
  v.string(),
  v.parseJson(),
  v.object({ id: v.pipe(v.string(), v.maxLength(100), v.regex(/^[\w-]+$/)) }),
);

/**
 * RunPod says that a job has ended. It signs nothing, so the message is not trusted: it only makes the service ask RunPod, at most once
 * a second for each task. A job that the task does not know is looked up at RunPod.
 */
export const callback = endpoint({
  method: 'POST',
  path: '/runpod/callback/:token',
  handle({ store, lifecycle, uptime }) {
    const recent = new Map<string, number>(); // by task id: time of the last callback that was acted upon

    return async (c) => {
      const task = await store.findByCallbackToken(c.req.param('token')!);
      if (!task) throw noSuchTask();
      const text = await readBytes(c, MAX_BYTES).then(String, () => '');
      const body = v.safeParse(message, text); // without an id the task is checked all the same
      for (const [id, at] of recent) if (uptime() - at > SECOND) recent.delete(id);
      if (!recent.has(task.id)) {
        recent.set(task.id, uptime());
        lifecycle.onCallback(task, body.success ? body.output.id : undefined);
      }
      return c.body(null, 200);
    };
  },
});
