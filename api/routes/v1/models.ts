import * as v from 'valibot';
import type { OpenAiModel } from '../../../core/openai-responses.ts';
import { SECOND } from '../../../core/time.ts';
import { endpoint } from '../../http/endpoint.ts';
import { invalidInput, Problem } from '../../http/problem.ts';
import { jsonResponse } from '../../openapi/parts.ts';

/** @param since start of the service; milliseconds since 1970 */
const present = (id: string, since: number): OpenAiModel => ({
  id,
  object: 'model',
  created: Math.floor(since / SECOND),
  owned_by: 'img2vid',
});
const START_EXAMPLE = Date.parse('2025-11-29T12:00:00Z');
const noSuchModel = (model: string) => new Problem('not_found', `there is only the model ${model}`);

export const listModels = endpoint({
  method: 'GET',
  path: '/v1/models',
  scope: 'read',
  query: v.object({}),
  describe: ({ model }) => ({
    operationId: 'listModels',
    tags: ['openai'],
    summary: 'List the models: the only one that this service has',
    responses: {
      200: jsonResponse('The models', 'OpenAiModelList', {
        'the only model': { object: 'list', data: [present(model, START_EXAMPLE)] },
      }),
    },
    errors: [invalidInput([{ field: 'limit', message: 'unknown' }])],
  }),
  handle({ config, now }) {
    const data = [present(config.model, now())];
    return (c) => c.json({ object: 'list', data });
  },
});

export const retrieveModel = endpoint({
  method: 'GET',
  path: '/v1/models/:id',
  scope: 'read',
  query: v.object({ id: v.pipe(v.string(), v.description('Name of the model')) }),
  describe: ({ model }) => ({
    operationId: 'retrieveModel',
    tags: ['openai'],
    summary: 'Get a model',
    responses: { 200: jsonResponse('The model', 'OpenAiModel', { 'the only model': present(model, START_EXAMPLE) }) },
    errors: [noSuchModel(model)],
  }),
  handle({ config, now }) {
    const model = present(config.model, now());
    return (c, { id }) => {
      if (id !== config.model) throw noSuchModel(config.model);
      return c.json(model);
    };
  },
});
