import { endpoint } from '../../http/endpoint.ts';
import { jsonResponse } from '../../openapi/parts.ts';
import { TASK_QUERY } from '../require-own-task.ts';
import { presentVideo, requireVideo, VIDEO_ERRORS } from './present-video.ts';

export const retrieveVideo = endpoint({
  method: 'GET',
  path: '/v1/videos/:id',
  scope: 'read',
  query: TASK_QUERY,
  describe: ({ videos }) => ({
    operationId: 'retrieveVideo',
    tags: ['openai'],
    summary: 'Get a video',
    responses: { 200: jsonResponse('The video', 'Video', videos) },
    errors: VIDEO_ERRORS,
  }),
  handle:
    (services) =>
    async (c, { id }) => {
      const task = await requireVideo(c, services, id);
      services.lifecycle.watch(task);
      return c.json(presentVideo(task, services.config));
    },
});
