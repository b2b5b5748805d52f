/**
 * A simulator of OpenAI's images API: POST /images/generations, by its reference and the types of the package `openai`. The models are
 * OpenAI's, which check their parameters, and any other name: a server such as LocalAI, which takes any size and answers with URLs. A
 * keyword of `REFUSALS` in the prompt makes it refuse the request.
 * https://platform.openai.com/docs/api-reference/images/create
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { ImagesResponse } from 'openai/resources/images';
import { type BridgeServerOptions, createImagines, findKeyword } from './imagines.ts';

type Refusal = readonly [status: 400 | 403 | 404 | 429, code: string | null, type: string, message: string];

const INVALID = 'invalid_request_error';
const REJECTED = 'Your request was rejected as a result of our safety system.';
const REFUSALS: Record<string, Refusal> = {
  MODERATED: [400, 'moderation_blocked', 'image_generation_user_error', `${REJECTED} safety_violations=[violence].`],
  POLICY: [400, 'content_policy_violation', INVALID, REJECTED],
  GATEWAY_POLICY: [400, '400', 'None', 'litellm.ContentPolicyViolationError: AzureException'],
  SAFETY: [400, null, INVALID, REJECTED],
  INSUFFICIENT_QUOTA: [429, 'insufficient_quota', 'insufficient_quota', 'You exceeded your current quota'],
  HARD_LIMIT: [400, 'billing_hard_limit_reached', INVALID, 'Billing hard limit has been reached.'],
  SLOW_DOWN: [429, 'rate_limit_exceeded', 'requests', 'Rate limit reached for images per minute'],
  UNVERIFIED: [403, null, INVALID, 'Your organization must be verified to use the model'],
  NO_MODEL: [404, 'model_not_found', INVALID, 'The model does not exist or you do not have access to it.'],
};

const ALL = 'prompt model n size quality response_format style user';
const GPT = `${ALL} background moderation output_compression output_format partial_images stream`;
const SQUARE = '1024x1024';

/** What OpenAI's models accept; no `sizes`: any with sides that are multiples of 16. */
const MODELS: [RegExp, { fields: string; sizes?: string; qualities: string; maxCount: number; maxPrompt: number }][] = [
  [
    /^dall-e-2/,
    { fields: ALL, sizes: `256x256 512x512 ${SQUARE}`, qualities: 'standard', maxCount: 10, maxPrompt: 1000 },
  ],
  [
    /^dall-e-3/,
    {
      fields: ALL,
      sizes: `${SQUARE} 1792x1024 1024x1792`,
      qualities: 'standard hd auto',
      maxCount: 1,
      maxPrompt: 4000,
    },
  ],
  [/^gpt-image-2/, { fields: GPT, qualities: 'low medium high auto', maxCount: 10, maxPrompt: 32_000 }],
  [
    /^gpt-image/,
    {
      ...{ fields: GPT, sizes: `${SQUARE} 1536x1024 1024x1536 auto`, qualities: 'low medium high auto' },
      ...{ maxCount: 10, maxPrompt: 32_000 },
    },
  ],
];

interface ImageRequest {
  prompt: string;
  model: string;
  n?: number;
  size?: string;
  quality?: string;
  response_format?: string;
}

interface OpenaiError {
  message: string;
  type: string;
  param: string | null;
  code: string | null;
}

/** To be mounted at /v1. */
export function openaiServer(options: BridgeServerOptions) {
  const { app, imagines, paid, accept, draw, pictureUrls } = createImagines(options, {});
  const { duration = 0, longerSide } = options;

  app.post('/images/generations', async (c) => {
    if (c.req.header('authorization') !== `Bearer ${options.apiKey}`)
      return c.json({ error: error('Incorrect API key provided.', null, 'invalid_api_key') }, 401);
    const request: ImageRequest = await c.req.json();
    const problem = check(request);
    if (problem) return c.json({ error: problem }, 400);
    const [status, code, type, message] = findKeyword(request.prompt, REFUSALS) ?? [];
    if (status) return c.json({ error: { code, type, message, param: null } }, status);

    const { n = 1, model, response_format } = request;
    const { width, height } = parseSize(request.size);
    const scale = longerSide === undefined ? 1 : longerSide / Math.max(width, height);
    const size = { width: Math.round(width * scale), height: Math.round(height * scale) };
    const imagine = accept(request.prompt, c.req.header('x-client-request-id'), size);
    if (duration > 0) await delay(duration);
    const created = Math.floor(imagine.created / 1000);
    const isGpt = model.startsWith('gpt-image');
    const indexes = Array.from({ length: n }, (_, i) => i + 1);
    if (!isGpt && response_format !== 'b64_json') {
      const { single } = pictureUrls(c, imagine, '/v1/');
      return c.json({ created, data: indexes.map((index) => ({ url: single[index - 1] })) });
    }
    const pictures = await Promise.all(indexes.map((index) => draw(imagine, index)));
    const data = pictures.map((png) => ({ b64_json: png.toString('base64') }));
    if (!isGpt) return c.json({ created, data });
    const usage = { input_tokens: 9, output_tokens: 1056 * n, total_tokens: 1056 * n + 9 };
    const input_tokens_details = { image_tokens: 0, text_tokens: 9 };
    return c.json({
      ...{
        created,
        data,
        background: 'opaque',
        output_format: 'png',
        quality: 'medium',
        size: request.size as '1024x1024',
      },
      usage: { ...usage, input_tokens_details },
    } satisfies ImagesResponse);
  });

  return { app, imagines, paid };
}

const error = (message: string, param: string | null, code: string): OpenaiError => ({
  ...{ message, type: INVALID, param, code },
});

const parseSize = (size = 'auto') => {
  const [, width = '1024', height = '1024'] = /^(\d+)x(\d+)$/.exec(size) ?? [];
  return { width: Number(width), height: Number(height) };
};

/** The error for the first wrong parameter, as OpenAI has it. */
function check(request: ImageRequest): OpenaiError | undefined {
  const { prompt, model, n = 1, size = 'auto', quality } = request;
  const rules = MODELS.find(([pattern]) => pattern.test(model))?.[1];
  if (!rules) return undefined;
  const fields = rules.fields.split(' ').filter((name) => name !== 'response_format' || model.startsWith('dall-e'));
  const unknown = Object.keys(request).find((name) => !fields.includes(name));
  if (unknown) return error(`Unknown parameter: '${unknown}'.`, unknown, 'unknown_parameter');
  const { maxPrompt, maxCount, qualities, sizes } = rules;
  if (prompt.length > maxPrompt)
    return error(
      `Invalid 'prompt': string too long. Expected a string with maximum length ${maxPrompt}, but got a string with length ${prompt.length} instead.`,
      ...(['prompt', 'string_above_max_length'] as const),
    );
  if (n > maxCount)
    return error(
      `Invalid 'n': integer above maximum value. Expected a value <= ${maxCount}.`,
      'n',
      'integer_above_max_value',
    );
  const { width, height } = parseSize(size);
  const isAllowed = sizes
    ? sizes.split(' ').includes(size)
    : width % 16 === 0 && height % 16 === 0 && isSane(width, height);
  if (!isAllowed) return error(`Invalid value: '${size}'. Supported values are: ${sizes}.`, 'size', 'invalid_value');
  if (quality && !qualities.split(' ').includes(quality))
    return error(`Invalid value: '${quality}'. Supported values are: ${qualities}.`, 'quality', 'invalid_value');
  return undefined;
}

/** gpt-image-2: a ratio from 1:3 to 3:1, 655,360 to 8,294,400 pixels, and sides of at most 3840. */
function isSane(width: number, height: number): boolean {
  const [shorter, longer] = [Math.min(width, height), Math.max(width, height)];
  const pixels = width * height;
  return longer <= 3840 && longer <= 3 * shorter && pixels >= 655_360 && pixels <= 8_294_400;
}
