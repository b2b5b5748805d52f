import { Hono } from 'hono';
import { Webhook } from 'standardwebhooks';
import type { PresentedTask } from '../../../core/responses.ts';
import { SECOND } from '../../../core/time.ts';
import { listen } from '../../support/test-api.ts';
import type { Kills } from './kills.ts';
import type { Trial } from './trial.ts';

/** Receives webhooks at /OWNER, checks signatures, and refuses some first attempts. An API that announces an end may be killed. */
export async function startReceiver({ observations, owners, running, stream }: Trial, kills: Kills) {
  const random = stream('webhooks'); // decides which first attempts are refused
  const counts = { accepted: 0, refused: 0 };
  const app = new Hono().post('/:owner', async (c) => {
    const body = await c.req.text();
    const { type, data } = JSON.parse(body) as { type: string; data: PresentedTask };
    const header = (name: string) => c.req.header(`webhook-${name}`) ?? 'none';
    const { secret } = owners.find(({ name }) => name === c.req.param('owner'))!;
    const at = new Date(Number(header('timestamp')) * SECOND); // by the fast clock: too far ahead for `verify`
    if (header('signature') !== new Webhook(secret).sign(header('id'), at, body))
      observations.addViolation(`${data.id}: its webhook is signed ${header('signature')}`);
    const webhooks = observations.seeWebhook(data.id, type, header('id'));
    const isFirst = webhooks.attempts === 1;
    observations.seeTask(data, 'a webhook', performance.now());
    const sender = running.api().find(({ id }) => body.includes(`/${id}/files/`)) ?? running.api().find(kills.isUp);
    const isDying = kills.killAt('announcing', sender);
    const isAccepted = !isDying && !(isFirst && random() < 0.3);
    counts[isAccepted ? 'accepted' : 'refused']++;
    if (isAccepted) webhooks.accepted++;
    observations.notifyChange();
    return c.body(null, isAccepted ? 204 : 500);
  });
  const { url, close } = await listen(app);
  return { url, counts, close };
}
