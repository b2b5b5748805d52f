import * as v from 'valibot';
import type { Bridge, BridgeErrorCode } from './bridge.ts';
import { bridgeError } from './bridge.ts';
import {
  createCall,
  forgottenImagine,
  parse,
  pollInterval,
  statusOf,
  toFraction,
  unexpectedAnswer,
} from './bridge-call.ts';

/** TheNextLeg's failure words, which arrive as an imagine's `content`. */
const FAILURES: Record<string, BridgeErrorCode> = {
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

const taken = v.object({ success: v.literal(true), messageId: v.pipe(v.string(), v.nonEmpty()) });
const notTaken = v.object({ success: v.literal(false), msg: v.optional(v.string()) });
const words = v.object({ msg: v.string() });

const result = v.object({
  imageUrl: v.nullish(v.string()),
  imageUrls: v.nullish(v.array(v.string())),
  content: v.nullish(v.string()),
});
/** The documents show a finished result flat, clients read it under `response`. */
const message = v.intersect([
  result,
  v.object({ progress: v.union([v.number(), v.string()]), response: v.nullish(result) }),
]);

/** TheNextLeg v2: Bearer key; one request in 3 s. */
export function tnl({
  apiKey,
  baseUrl = 'https://api.thenextleg.io/v2',
}: {
  apiKey: string;
  baseUrl?: string | undefined;
}): Bridge {
  const call = createCall({
    baseUrl,
    headers: { authorization: `Bearer ${apiKey}` },
    said: (answer) => (v.is(words, answer) ? answer.msg : undefined),
    statuses: { 400: 'banned_prompt' }, // "Invalid phrase: …"
  });

  return {
    name: 'tnl',
    pollInterval: pollInterval(3000, baseUrl),

    async imagine(prompt, ref) {
      const answer = await call('/imagine', { body: { msg: prompt, ref } });
      if (v.is(taken, answer)) return answer.messageId;
      if (v.is(notTaken, answer)) throw bridgeError('upstream_error', answer.msg);
      throw unexpectedAnswer(answer);
    },

    async getStatus(id, signal) {
      const answer = await call(`/message/${encodeURIComponent(id)}`, { query: { expireMins: 60 }, signal }).catch(
        (error) => {
          throw statusOf(error) === 404 ? forgottenImagine(error) : error;
        },
      );
      const { progress, response, ...flat } = parse(message, answer);
      const { content, imageUrl, imageUrls } = response ?? flat;
      const failure = FAILURES[content ?? ''];
      if (failure) return { is: 'failed', error: bridgeError(failure, content!) };
      if (progress === 'incomplete') throw forgottenImagine();
      if (Number(progress) !== 100) return { is: 'working', progress: toFraction(progress) };
      const pictures = imageUrls?.length === 4 ? imageUrls : [];
      if (pictures.length === 0 && !imageUrl) throw bridgeError('upstream_error', '', unexpectedAnswer(answer));
      return { is: 'done', pictures, grid: imageUrl ?? undefined };
    },

    async picture(url, signal) {
      const bytes = await call('/getImage', { body: { imgUrl: url }, signal });
      if (bytes instanceof Blob) return new Uint8Array(await bytes.arrayBuffer());
      throw bridgeError('upstream_error', '', unexpectedAnswer(bytes));
    },

    trusts: (url) => url.host === new URL(baseUrl).host,
  };
}
