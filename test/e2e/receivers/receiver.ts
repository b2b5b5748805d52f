/**
 * A receiver of webhooks, with the official library for Node: answers 204 to what WEBHOOK_SECRET (whsec_ and base64) has signed, else
 * 400. Prints its port, then a line of JSON a delivery, `{verified, id, type}`, the type null where nothing was verified.
 */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { buffer } from 'node:stream/consumers';
import { Webhook } from 'standardwebhooks';

const webhook = new Webhook(process.env.WEBHOOK_SECRET!); // whsec_…
const server = createServer(async (request, response) => {
  let event: { type: string } | undefined;
  try {
    const body = await buffer(request); // as received, not parsed and serialized again
    event = webhook.verify(body, request.headers as Record<string, string>) as { type: string };
    response.writeHead(204).end();
  } catch {
    response.writeHead(400).end();
  }
  const id = request.headers['webhook-id'];
  console.log(JSON.stringify({ verified: event !== undefined, id, type: event?.type ?? null }));
});
server.listen(0, '127.0.0.1', () => console.log((server.address() as AddressInfo).port));
