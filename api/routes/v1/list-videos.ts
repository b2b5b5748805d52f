import * as v from 'valibot';
import type { VideoList } from '../../../core/openai-responses.ts';
import { choice } from '../../../core/parameter-types.ts';
import { endpoint } from '../../http/endpoint.ts';
import { invalidInput } from '../../http/problem.ts';
import { jsonResponse } from '../../openapi/parts.ts';
import { TASK_ID } from '../../tasks/id.ts';
import { pageSize } from '../list.ts';
import { presentVideo } from './present-video.ts';

const [LARGEST_PAGE, PAGE] = [100, 20];
const invalidAfter = 'must be the id of the last video of the previous page';

export const listVideos = endpoint({
  method: 'GET',
  path: '/v1/videos',
  scope: 'read',
  query: v.object({
    after: v.optional(
      v.pipe(
        v.string(),
        v.toLowerCase(),
        v.regex(TASK_ID, invalidAfter),
        v.description('Id of the last video of the previous page'),
      ),
    ),
    limit: pageSize(LARGEST_PAGE, PAGE),
    order: v.optional(choice(['asc', 'desc'], 'By time of creation; default desc, newest first')),
  }),
  describe: ({ videos }) => ({
    operationId: 'listVideos',
    tags: ['openai'],
    summary: 'List videos',
    description: 'Videos that were deleted are left out.',
    responses: {
      200: jsonResponse('A page', 'VideoList', { 'the only page': page([videos.completed], false) }),
    },
    errors: [invalidInput([{ field: 'after', message: invalidAfter }])],
  }),
  handle:
    ({ store, config }) =>
    async (c, { after: position, limit = PAGE, order = 'desc' }) => {
      const from = position === undefined ? {} : { [order === 'asc' ? 'after' : 'before']: position };
      const selection = { owner: c.get('key').id, isKept: true, order, ...from };
      const tasks = await store.list({ ...selection, limit: limit + 1 });
      const videos = tasks.slice(0, limit).map((task) => presentVideo(task, config));
      return c.json(page(videos, tasks.length > limit));
    },
});

const page = (data: VideoList['data'], has_more: boolean): VideoList => ({
  object: 'list',
  data,
  first_id: data[0]?.id ?? null,
  last_id: data.at(-1)?.id ?? null,
  has_more,
});
