/** Every endpoint, and the OpenAPI document of them all. */
import { type Endpoint, endpoint } from '../http/endpoint.ts';
import { openApiDocument } from '../openapi/document.ts';
import { json } from '../openapi/parts.ts';
import { callback } from './callback.ts';
import { cancel } from './cancel.ts';
import { clip } from './clip.ts';
import { deleteTask } from './delete.ts';
import { docs } from './docs.ts';
import { files } from './files.ts';
import { health } from './health.ts';
import { img2vid } from './img2vid.ts';
import { mcp } from './mcp.ts';
import { metrics } from './metrics.ts';
import { page } from './page.ts';
import { ready } from './ready.ts';
import { status } from './status.ts';
import { getTask, listTasks, taskEvents } from './tasks.ts';
import { usage } from './usage.ts';
import { createVideo } from './v1/create-video.ts';
import { deleteVideo } from './v1/delete-video.ts';
import { listVideos } from './v1/list-videos.ts';
import { listModels, retrieveModel } from './v1/models.ts';
import { retrieveVideo } from './v1/retrieve-video.ts';
import { unsupported } from './v1/unsupported.ts';
import { videoContent } from './v1/video-content.ts';
import { deliveries, replay, testWebhook } from './webhooks.ts';

const openapi = endpoint({
  method: 'GET',
  path: '/openapi.json',
  describe: () => ({
    operationId: 'openapi',
    tags: ['service'],
    summary: 'This document',
    responses: {
      200: { description: 'OpenAPI 3.1', content: json({ type: 'object' }, { 'its beginning': { openapi: '3.1.0' } }) },
    },
  }),
  handle({ config }) {
    const document = openApiDocument(config, ENDPOINTS);
    return (c) => c.json(document);
  },
});

/** In the order of the document. */
export const ENDPOINTS: Endpoint[] = [
  img2vid,
  status,
  listTasks,
  getTask,
  taskEvents,
  cancel,
  deleteTask,
  usage,
  deliveries,
  replay,
  testWebhook,
  ...unsupported,
  createVideo,
  listVideos,
  retrieveVideo,
  deleteVideo,
  videoContent,
  listModels,
  retrieveModel,
  files,
  health,
  ready,
  metrics,
  openapi,
  callback,
  mcp,
  page,
  clip,
  docs,
];
