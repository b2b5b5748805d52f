import type { ImageGenerateParams } from 'openai/resources/images';
import * as v from 'valibot';
import { addAspectRatio, aspectRatioOf, splitFlags } from '../../../core/midjourney-prompt.ts';
import { SECOND } from '../../../core/time.ts';
import { type Bridge, type BridgeErrorCode, bridgeError } from './bridge.ts';
import { createBridge } from './create-bridge.ts';

export const OPENAI_URL = 'https://api.openai.com/v1';
export const QUALITIES = ['auto', 'low', 'medium', 'high', 'standard', 'hd'] as const;

export interface OpenaiOptions {
  /** a server of one's own may need none */
  apiKey?: string | undefined;
  /** with /v1; default OPENAI_URL */
  baseUrl?: string | undefined;
  model: string;
  /** the sizes that the model accepts, such as 1536x1024, or `auto` alone; default: OpenAI's for its models, else any */
  sizes?: string[] | undefined;
  /** default: the server's */
  quality?: (typeof QUALITIES)[number] | undefined;
  /** pictures of a prompt, 1–4 */
  count?: number;
  /** milliseconds until an answer is given up */
  answerTimeout: number;
}

/** Sizes of OpenAI's models. gpt-image-2 and models of others take any size: multiples of 16, a ratio from 1:3 to 3:1. */
const SIZES: [RegExp, string[]][] = [
  [/^dall-e-2/, ['1024x1024']],
  [/^dall-e-3/, ['1024x1024', '1792x1024', '1024x1792']],
  [/^(gpt-image-1|chatgpt-image)/, ['1024x1024', '1536x1024', '1024x1536']],
];
/** Of a free size: pixels, the step of its sides, and the highest ratio of them. */
const FREE = { pixels: 1024 * 1024, step: 16, ratio: 3 };

/** Values of `code` or `type` in an error. */
const ERRORS = new Map<unknown, BridgeErrorCode>(
  Object.entries({
    moderation_blocked: 'banned_prompt',
    content_policy_violation: 'banned_prompt', // dall-e, and gateways
    content_filter: 'banned_prompt', // Azure
    contentFilter: 'banned_prompt', // Azure
    insufficient_quota: 'no_credit', // with status 429
    billing_hard_limit_reached: 'no_credit', // with status 400
    billing_limit_user_error: 'no_credit', // with status 400
    rate_limit_exceeded: 'rate_limited',
  } as const),
);

const picture = v.object({ b64_json: v.nullish(v.string()), url: v.nullish(v.string()) });
const pictures = v.object({ data: v.array(picture) });
const error = v.object({
  message: v.nullish(v.string()),
  type: v.nullish(v.string()),
  param: v.nullish(v.string()),
  code: v.nullish(v.union([v.string(), v.number()])),
});
/** vLLM answers with the error alone, others with a text as `error` or `detail`. */
const errorAnswer = v.union([
  v.object({ error }),
  v.pipe(
    v.union([v.object({ error: v.string() }), v.object({ detail: v.string() })]),
    v.transform((answer) => ({ error: { message: 'error' in answer ? answer.error : answer.detail } })),
  ),
  v.pipe(
    error,
    v.transform((error) => ({ error })),
  ),
]);

function errorOf(answer: unknown): Partial<v.InferOutput<typeof error>> {
  const { success, output } = v.safeParse(errorAnswer, answer);
  return success ? output.error : {};
}

const knownCode = ({ code, type }: ReturnType<typeof errorOf>) => ERRORS.get(code) ?? ERRORS.get(type);

/**
 * OpenAI's images API, at OpenAI or any server that has it: `POST /images/generations`. The answer comes when the pictures are drawn,
 * as base64 or as URLs. It can't be asked for again, so a lost one is `lost`.
 * https://platform.openai.com/docs/api-reference/images/create
 */
export function openai(options: OpenaiOptions): Bridge {
  const { apiKey, baseUrl = OPENAI_URL, model, sizes, quality, count = 1, answerTimeout } = options;
  const isDallE = /^dall-e-[23]/.test(model);
  return createBridge({
    name: 'openai',
    baseUrl,
    headers: apiKey ? { authorization: `Bearer ${apiKey}` } : {},
    pollInterval: 3 * SECOND,
    count,
    answerTimeout,
    writePrompt: addAspectRatio,
    unknownFlags: (prompt) => splitFlags(prompt).flags.filter((flag) => !/^--(ar|aspect)$/.test(flag)),
    errorMessage: (answer) => errorOf(answer).message ?? undefined,
    errorCode(status, answer) {
      const { param, ...error } = errorOf(answer);
      const known = knownCode(error);
      if (known) return known;
      return (status === 400 || status === 422) && param && param !== 'prompt' ? 'upstream_error' : undefined; // the operator set it
    },

    imaginePath: '/images/generations',
    imagineBody: (prompt): ImageGenerateParams => ({
      model,
      prompt: splitFlags(prompt).words,
      n: count,
      size: chooseSize(aspectRatioOf(prompt) ?? 1, sizes ?? SIZES.find(([pattern]) => pattern.test(model))?.[1]),
      ...(quality && { quality }),
      ...(isDallE && { response_format: 'b64_json' }), // GPT image models refuse the field, other servers may
    }),
    /** OpenAI logs the first, so that it can say what became of a lost request. Some gateways answer a repeated request with the second. */
    imagineHeaders: (ref) => ({ 'x-client-request-id': ref, 'idempotency-key': ref }),
    readImagine(answer) {
      if (!v.is(pictures, answer)) return rejectKnownError(answer);
      const urls = answer.data.flatMap(({ b64_json, url }) => (b64_json ? [toDataUrl(b64_json)] : url ? [url] : []));
      return urls.length > 0 ? urls.slice(0, count) : undefined;
    },
  });
}

/** Some gateways send an error with status 200. @throws JobError if its code is known, so that nothing was drawn */
function rejectKnownError(answer: unknown): undefined {
  const { message, ...error } = errorOf(answer);
  const code = knownCode(error);
  if (code) throw bridgeError(code, message ?? '');
}

/** Some servers put `data:image/png;base64,` before the base64. */
const toDataUrl = (base64: string) => (base64.startsWith('data:') ? base64 : `data:;base64,${base64}`);

/**
 * The size to ask for: of `allowed` the one with the nearest aspect ratio, or without it about a megapixel.
 * @param ratio width divided by height
 */
export function chooseSize(ratio: number, allowed?: readonly string[]): string {
  if (!allowed) {
    const wanted = Math.min(FREE.ratio, Math.max(1 / FREE.ratio, ratio));
    const side = (factor: number) => FREE.step * Math.round(Math.sqrt(FREE.pixels * factor) / FREE.step);
    return `${side(wanted)}x${side(1 / wanted)}`;
  }
  const distance = (size: string) => {
    const [width, height] = size.split('x').map(Number);
    return Math.abs(Math.log(width! / height! / ratio));
  };
  return allowed.reduce((best, size) => (distance(size) < distance(best) ? size : best));
}
