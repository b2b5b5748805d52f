import * as v from 'valibot';
import { endpoint } from '../../http/endpoint.ts';
import { readBody } from '../../http/read-body.ts';
import { PROMPT_REQUEST } from '../../openapi/examples.ts';
import { content, json, jsonResponse, ref } from '../../openapi/parts.ts';
import { createTask } from '../create-task.ts';
import { createErrors, IDEMPOTENCY_HEADER } from '../img2vid.ts';
import { presentVideo } from './present-video.ts';
import { translate } from './translate.ts';

const EXAMPLE_VIDEOS = {
  'a prompt': { prompt: 'a lighthouse at dawn', seconds: '3', size: '1280x720' },
  'a picture, and our own parameters': {
    input_reference: { image_url: 'https://example.com/photo.jpg' },
    motion_bucket_id: 200,
    seed: 23,
  },
};

export const createVideo = endpoint({
  method: 'POST',
  path: '/v1/videos',
  scope: 'submit',
  query: v.object({}),
  unknownParameter: 'unknown in the query: parameters belong in the body',
  describe: ({ videos, limits }) => ({
    operationId: 'createVideo',
    tags: ['openai'],
    summary: 'Create a video',
    description:
      'As POST /img2vid, with OpenAI’s names. The parameters of POST /img2vid are valid next to them. With a picture, the prompt is ignored. Warnings in the answer name what is ignored, and what became something else.',
    parameters: [IDEMPOTENCY_HEADER],
    requestBody: {
      required: true,
      content: {
        ...json(ref('VideoRequest'), EXAMPLE_VIDEOS),
        ...content('application/x-www-form-urlencoded', ref('VideoRequest'), { 'a prompt': PROMPT_REQUEST }),
        ...content('multipart/form-data', ref('VideoUpload'), {
          'a picture': { input_reference: '(the file)', seconds: '3' },
        }),
      },
    },
    responses: { 200: jsonResponse('The video', 'Video', { created: videos.queued }) },
    errors: createErrors(limits),
  }),
  handle: (services) => async (c) => {
    const { body, renamed } = translate(await readBody(c, services.reserveBody, 'input_reference'), services.config);
    const task = await createTask(c, services, body).catch((error) => {
      throw renamed(error);
    });
    return c.json(presentVideo(task, services.config));
  },
});
