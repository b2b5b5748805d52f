import { Hono } from 'hono';
import { Webhook } from 'standardwebhooks';
import type { PresentedTask } from '../../../core/responses.ts';
import { SECOND } from '../../../core/time.ts';
import { listen } from '../../support/test-api.ts';
import type { Processes } from './processes.ts';
import type { Trial } from './trial.ts';

/** Receives webhooks at /OWNER, checks signatures, and refuses some first attempts. An API that announces an end may be killed. */
export async function startReceiver(trial: Trial, processes: Processes) {
  const { harness, owners, addViolation } = trial;
  const random = trial.stream('webhooks'); // decides which first attempts are refused
  const counts = { accepted: 0, refused: 0 };
  const app = new Hono().post('/:owner', async (c) => {
    const body = await c.req.text();
    const { type, data } = JSON.parse(body) as { type: string; data: PresentedTask };
    const header = (name: string) => c.req.header(`webhook-${name}`) ?? 'none';
    const { secret } = owners.find(({ name }) => name === c.req.param('owner'))!;
    const at = new Date(Number(header('timestamp')) * SECOND); // by the fast clock: too far ahead for `verify`
    if (header('signature') !== new Webhook(secret).sign(header('id'), at, body))
      addViolation(`${data.id}: its webhook is signed ${header('signature')}`);
    const { webhooks } = trial.recordOf(data.id);
    webhooks.ids.add(header('id'));
    webhooks.types.add(type);
    const isFirst = webhooks.attempts++ === 0;
    trial.seeTask(data, 'a webhook', performance.now());
    const sender = harness.apis.findLast(({ id }) => body.includes(`/${id}/files/`)) ?? processes.apisUp()[0];
    const isDying = processes.killAt('announcing', sender);
    const isAccepted = !isDying && !(isFirst && random() < 0.3);
    counts[isAccepted ? 'accepted' : 'refused']++;
    if (isAccepted) webhooks.accepted++;
    harness.notifyChange();
    return c.body(null, isAccepted ? 204 : 500);
  });
  const { url, close } = await listen(app);
  return { url, counts, close };
}
