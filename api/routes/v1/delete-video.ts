import type { VideoDeleted } from '../../../core/openai-responses.ts';
import { endpoint } from '../../http/endpoint.ts';
import { bucketUnavailable } from '../../http/problem.ts';
import { TASK_ID_EXAMPLE } from '../../openapi/examples.ts';
import { jsonResponse } from '../../openapi/parts.ts';
import { expireTask, notEnded } from '../delete.ts';
import { TASK_QUERY } from '../require-own-task.ts';
import { noSuchVideo, VIDEO_ERRORS } from './present-video.ts';

const deleted = (id: string): VideoDeleted => ({ id, object: 'video.deleted', deleted: true });

export const deleteVideo = endpoint({
  method: 'DELETE',
  path: '/v1/videos/:id',
  scope: 'submit',
  query: TASK_QUERY,
  describe: () => ({
    operationId: 'deleteVideo',
    tags: ['openai'],
    summary: 'Delete an ended video',
    description: 'As POST /delete. The request can be repeated.',
    responses: { 200: jsonResponse('Deleted', 'VideoDeleted', { deleted: deleted(TASK_ID_EXAMPLE) }) },
    errors: [...VIDEO_ERRORS, notEnded('running'), bucketUnavailable()],
  }),
  handle:
    (services) =>
    async (c, { id }) => {
      const { store } = services;
      const task = await store.getOwn(c.get('key').id, id);
      if (!task) throw noSuchVideo();
      await expireTask(services, task);
      return c.json(deleted(id));
    },
});
