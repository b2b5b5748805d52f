import type { Context } from 'hono';
import * as v from 'valibot';
import { choice } from '../../../core/parameter-types.ts';
import { endpoint } from '../../http/endpoint.ts';
import { bucketUnavailable, invalidInput, Problem } from '../../http/problem.ts';
import { responseHeader } from '../../openapi/parts.ts';
import type { Services } from '../../services.ts';
import type { PublicTask } from '../../store/task.ts';
import { TASK_QUERY } from '../require-own-task.ts';
import { noSuchVideo, requireVideo, VIDEO_ERRORS } from './present-video.ts';
import { makeSpriteSheet } from './sprite-sheet.ts';

const VARIANTS = ['video', 'thumbnail', 'spritesheet'] as const;
const invalidVariant = `must be one of ${VARIANTS.join(', ')}`;

const notReady = (status: string) =>
  new Problem('not_found', `the video is not ready: it is ${status}; GET /v1/videos/{id} shows its progress`);
const noPreview = () =>
  new Problem('not_found', 'a worker of an earlier version made this video, without a sprite sheet');

/**
 * The video and its thumbnail are redirects to signed links, so that the bucket serves them, also parts of them. Clients drop the header
 * Authorization when a redirect leads to another origin.
 */
export const videoContent = endpoint({
  method: 'GET',
  path: '/v1/videos/:id/content',
  scope: 'read',
  query: v.object({
    ...TASK_QUERY.entries,
    variant: v.optional(choice(VARIANTS, 'video: MP4; thumbnail and spritesheet: JPEG. Default video')),
  }),
  describe: () => ({
    operationId: 'videoContent',
    tags: ['openai'],
    summary: 'The MP4 of a completed video, its first frame, or a sprite sheet',
    responses: {
      200: { description: 'The sprite sheet', content: { 'image/jpeg': {} } },
      302: {
        description: 'The video or thumbnail is at a signed link, which needs no API key',
        headers: { Location: responseHeader('The link') },
      },
    },
    errors: [
      ...VIDEO_ERRORS,
      invalidInput([{ field: 'variant', message: invalidVariant }]),
      notReady('running'),
      bucketUnavailable(),
    ],
  }),
  handle:
    (services) =>
    async (c, { id, variant = 'video' }) => {
      const task = await requireVideo(c, services, id);
      if (!task.output) throw notReady(task.status);
      if (variant === 'spritesheet') return respondWithSpriteSheet(c, services, task.output);
      const { grid, videos, still } = await services.presentTask(task);
      const [video] = videos!;
      const file = variant === 'video' ? (grid ?? video!) : (video!.poster ?? still!.preview ?? still!);
      return c.redirect(file.link, 302);
    },
});

async function respondWithSpriteSheet(c: Context, { bucket, takeTurn }: Services, output: Output) {
  const { preview } = output.videos[0]!;
  if (!preview) throw noPreview();
  const animation = await bucket.get(preview);
  if (!animation) throw noSuchVideo(); // it is being deleted
  const sheet = await takeTurn(c.get('key').id, () => makeSpriteSheet(animation));
  return c.body(new Uint8Array(sheet), 200, { 'content-type': 'image/jpeg' });
}
type Output = NonNullable<PublicTask['output']>;
