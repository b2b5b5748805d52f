import * as v from 'valibot';
import { type Bridge, bridgeError, codeOf } from './bridge.ts';
import {
  createCall,
  forgottenImagine,
  parse,
  pollInterval,
  statusOf,
  toFraction,
  unexpectedAnswer,
} from './bridge-call.ts';

const taken = v.object({ messageId: v.pipe(v.string(), v.nonEmpty()), success: v.optional(v.unknown()) });
const notTaken = v.object({ success: v.union([v.literal(false), v.literal('FAIL')]), error: v.nullish(v.string()) });
/** Its error answers say the short form in `error` and more in `message`. */
const words = v.object({ error: v.optional(v.string()), message: v.optional(v.string()) });

const message = v.object({
  status: v.picklist(['QUEUED', 'PROCESSING', 'DONE', 'FAIL']),
  progress: v.nullish(v.union([v.number(), v.string()])),
  uri: v.nullish(v.string()),
  originalUrl: v.nullish(v.string()),
  error: v.nullish(v.string()),
});

/** ImaginePro: Bearer key. It gives the grid alone, and tells failures in Midjourney's own words. */
export function imaginepro({
  apiKey,
  baseUrl = 'https://api.imaginepro.ai',
}: {
  apiKey: string;
  baseUrl?: string | undefined;
}): Bridge {
  const call = createCall({
    baseUrl,
    headers: { authorization: `Bearer ${apiKey}` },
    said: (answer) => (v.is(words, answer) ? (answer.error ?? answer.message) : undefined),
  });

  return {
    name: 'imaginepro',
    pollInterval: pollInterval(6000, baseUrl), // 10 requests a minute are documented

    async imagine(prompt, ref) {
      const answer = await call('/api/v1/nova/imagine', { body: { prompt, ref } });
      if (v.is(notTaken, answer)) throw bridgeError(codeOf(answer.error ?? ''), answer.error ?? '');
      if (v.is(taken, answer)) return answer.messageId;
      throw unexpectedAnswer(answer);
    },

    async getStatus(id, signal) {
      const answer = await call(`/api/v1/midjourney/message/${encodeURIComponent(id)}`, { signal }).catch((error) => {
        throw statusOf(error) === 404 ? forgottenImagine(error) : error;
      });
      const { status, progress, uri, originalUrl, error } = parse(message, answer);
      if (status === 'FAIL') return { is: 'failed', error: bridgeError(codeOf(error ?? ''), error ?? '') };
      if (status !== 'DONE') return { is: 'working', progress: toFraction(progress) };
      const grid = uri || originalUrl;
      if (!grid) throw bridgeError('upstream_error', '', unexpectedAnswer(answer));
      return { is: 'done', pictures: [], grid };
    },

    trusts: (url) => url.host === new URL(baseUrl).host,
  };
}
