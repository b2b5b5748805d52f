/** What a valid request has to be warned of. */
import { parseRatio } from './frame-size.ts';
import type { FieldNote } from './invalid-request.ts';
import { aspectRatioOf } from './midjourney-prompt.ts';
import { type Input, type Request, type Source, UNUSED } from './parameters.ts';
import { DRAFT, type ModelName, presets } from './presets.ts';

/** Values that the model does not use, or was not trained with. */
export function requestWarnings(request: Request, input: Input, source: Source, model: ModelName): FieldNote[] {
  const preset = presets[model];
  const size = `the model was trained on H ${preset.H}, W ${preset.W}`;
  const isCamera = model === 'camera';
  const isTrainedHeight = isCamera || request.H === undefined || request.H === preset.H;
  const isUsed = source === 'prompt' || source === 'still_of';
  const warnings: [condition: boolean, field: string, message: string][] = [
    [!isTrainedHeight, 'H', size],
    [!isCamera && isTrainedHeight && request.W !== undefined && request.W !== preset.W, 'W', size],
    [
      request.aspect_ratio !== undefined && request.H !== undefined && request.W !== undefined,
      'aspect_ratio',
      'ignored, because W and H are given',
    ],
    [
      isDrawnOtherwise(request, input),
      'aspect_ratio',
      'the prompt has another --ar: its picture is drawn with that one, and then fitted to the frame',
    ],
    [input.motion_bucket_id > 255, 'motion_bucket_id', 'the model was trained with values up to 255'],
    [
      request.cache_depth !== undefined && input.cache_interval === undefined,
      'cache_depth',
      'ignored: only with cache_interval above 1',
    ],
    [input.fps < 5 || input.fps > 30, 'fps', 'the model was trained with values from 5 to 30'],
    ...distillationWarnings(input, model),
    [
      request.webhook_events !== undefined && request.webhook_url === undefined,
      'webhook_events',
      'ignored: there is no webhook_url',
    ],
    ...UNUSED[model].map((name): [boolean, string, string] => [
      request[name] !== undefined,
      name,
      `the model ${model} does not use it`,
    ]),
    [
      request.image_index !== undefined && !isUsed,
      'image_index',
      `ignored: only a prompt gives four pictures, and this task uses ${source}`,
    ],
  ];
  return warnings.filter(([condition]) => condition).map(([, field, message]) => ({ field, message }));
}

/** A distilled model and its sampler need each other. */
function distillationWarnings(input: Input, model: ModelName): [condition: boolean, field: string, message: string][] {
  const { sampler, discretization, steps, speed } = input;
  if (model !== 'animatelcm_svd_xt' && speed !== DRAFT.speed) {
    const message = 'of the models that use networks, only animatelcm_svd_xt was trained for it';
    return [[sampler === 'LCMSampler' && model !== 'camera', 'sampler', message]];
  }
  return [
    [sampler !== 'LCMSampler', 'sampler', 'the model was trained for LCMSampler'],
    [
      discretization !== 'LCMDiscretization',
      'discretization',
      'the model was trained on the levels of LCMDiscretization',
    ],
    [steps > 8, 'steps', 'the model was trained for 1 to 8 steps'],
  ];
}

/** Whether the request has an aspect ratio, and the prompt has another one. */
function isDrawnOtherwise({ aspect_ratio = '', H, W }: Request, { prompt }: Input): boolean {
  const [wanted, drawn] = [parseRatio(aspect_ratio), prompt === undefined ? undefined : aspectRatioOf(prompt)];
  const isUsed = H === undefined || W === undefined;
  return isUsed && wanted !== undefined && drawn !== undefined && wanted !== drawn;
}
