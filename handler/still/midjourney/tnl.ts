import { FetchError, ofetch } from 'ofetch';
import * as v from 'valibot';
import { type ErrorCode, JobError } from '../../job.ts';
import type { Bridge } from './bridge.ts';

/** TheNextLeg's failure words, which arrive as an imagine's `content`. */
const FAILURES: Record<string, ErrorCode> = {
  BANNED_PROMPT: 'banned_prompt',
  IMAGE_BLOCKED: 'banned_prompt',
  BLOCKED: 'banned_prompt',
  INVALID_PARAMETER: 'invalid_input',
  INVALID_LINK: 'image_unavailable',
  QUEUE_FULL: 'queue_full',
  NO_FAST_HOURS: 'no_credit',
  MODERATION_OUTAGE: 'upstream_error',
  INTERNAL_ERROR: 'upstream_error',
};

const imagineAnswer = v.object({ success: v.literal(true), messageId: v.pipe(v.string(), v.nonEmpty()) });

const result = v.object({
  imageUrl: v.optional(v.string()),
  imageUrls: v.optional(v.array(v.string())),
  content: v.optional(v.nullable(v.string())),
});
/** The documents show a finished result flat, clients read it under `response`. */
const message = v.intersect([
  result,
  v.object({ progress: v.union([v.number(), v.string()]), response: v.optional(v.nullable(result)) }),
]);

/**
 * TheNextLeg v2.
 * @param baseUrl such as https://api.thenextleg.io/v2
 */
export function tnl({
  apiKey,
  baseUrl = 'https://api.thenextleg.io/v2',
}: {
  apiKey: string;
  baseUrl?: string | undefined;
}): Bridge {
  const host = new URL(baseUrl).host;
  const api = ofetch.create({
    baseURL: baseUrl,
    headers: { authorization: `Bearer ${apiKey}` },
    retry: 0, // an imagine is a payment, and looks are repeated by whoever waits
    timeout: 30_000,
  });

  return {
    name: 'tnl',
    pollInterval: /^(127\.|localhost|\[::1\])/.test(host) ? 200 : 3000, // 1 request per 3 s, but not of a stand-in on this machine

    async imagine(prompt, ref, signal) {
      const answer: unknown = await api('/imagine', { method: 'POST', body: { msg: prompt, ref }, signal }).catch(
        (error) => {
          const status = error instanceof FetchError ? error.status : undefined;
          if (status && status < 500) throw refusal(status, error);
          throw error; // no answer, or 5xx: it may have been taken
        },
      );
      const { success, output } = v.safeParse(imagineAnswer, answer);
      if (success) return output.messageId;
      if (v.is(v.object({ success: v.literal(false) }), answer))
        throw new JobError('upstream_error', 'the Midjourney bridge did not take the prompt', { cause: answer });
      throw new Error('an answer without an id', { cause: answer }); // it may have been taken
    },

    async look(id, signal) {
      const answer: unknown = await api(`/message/${encodeURIComponent(id)}`, {
        query: { expireMins: 60 },
        signal,
      }).catch((error) => {
        const status = error instanceof FetchError ? error.status : undefined;
        if (status && status < 500 && status !== 429) throw refusal(status, error);
        throw error;
      });
      const parsed = v.safeParse(message, answer);
      if (!parsed.success)
        throw new JobError('upstream_error', 'the Midjourney bridge gave an answer of unknown form', { cause: answer });
      const { progress, response, ...flat } = parsed.output;
      const { content, imageUrl, imageUrls = [] } = response ?? flat;
      const failure = FAILURES[content ?? ''];
      if (failure) throw new JobError(failure, `the Midjourney bridge refused the prompt: ${content}`);
      if (progress === 'incomplete') throw new JobError('lost', 'the Midjourney bridge has forgotten the prompt');
      if (Number(progress) !== 100)
        return { done: false, progress: Math.min(1, Math.max(0, Number(progress) / 100 || 0)) };
      const pictures = imageUrls.length === 4 ? imageUrls : imageUrl ? [imageUrl] : [];
      if (pictures.length === 0)
        throw new JobError('upstream_error', 'the Midjourney bridge finished without pictures', { cause: answer });
      return { done: true, pictures };
    },

    trusts: (url) => url.host === host,
  };
}

/** A 4xx answer as an error of ours. */
function refusal(status: number, error: unknown): JobError {
  const said =
    error instanceof FetchError && typeof error.data?.msg === 'string' ? `: ${error.data.msg.slice(0, 200)}` : '';
  const of = (code: ErrorCode, text: string) => new JobError(code, `${text}${said}`, { cause: error });
  if (status === 400) return of('banned_prompt', 'the Midjourney bridge refused the prompt');
  if (status === 401 || status === 402 || status === 403)
    return of('no_credit', 'the Midjourney bridge refused the operator’s key or has no credit');
  if (status === 429) return of('rate_limited', 'the Midjourney bridge asks to slow down');
  return of('upstream_error', `the Midjourney bridge answered with status ${status}`);
}
