/** Every endpoint, in the order of the OpenAPI document. */
import type { Endpoint } from '../http/endpoint.ts';
import { callback } from './callback.ts';
import { cancel } from './cancel.ts';
import { deleteTask } from './delete.ts';
import { docs } from './docs.ts';
import { files } from './files.ts';
import { health } from './health.ts';
import { img2vid } from './img2vid.ts';
import { metrics } from './metrics.ts';
import { openapi } from './openapi.ts';
import { page } from './page.ts';
import { ready } from './ready.ts';
import { status } from './status.ts';
import { usage } from './usage.ts';
import { deliveries, replay, testWebhook } from './webhooks.ts';

export const ENDPOINTS: Endpoint[] = [
  img2vid,
  status,
  cancel,
  deleteTask,
  usage,
  deliveries,
  replay,
  testWebhook,
  files,
  health,
  ready,
  metrics,
  openapi(() => ENDPOINTS),
  callback,
  page,
  docs,
];
