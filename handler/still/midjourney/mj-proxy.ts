import * as v from 'valibot';
import { type Bridge, type BridgeErrorCode, bridgeError, codeOf } from './bridge.ts';
import {
  createCall,
  forgottenImagine,
  parse,
  pollInterval,
  statusOf,
  toFraction,
  unexpectedAnswer,
} from './bridge-call.ts';

/** How submitting ended, by `code`. 21 is the id of an equal imagine that it has already. */
const TAKEN = [1, 21, 22];
const REFUSED: Record<number, BridgeErrorCode> = {
  3: 'upstream_error', // no account that works
  4: 'invalid_input',
  9: 'upstream_error',
  23: 'queue_full',
  24: 'banned_prompt',
};

const submitted = v.object({
  code: v.number(),
  description: v.nullish(v.string()),
  result: v.nullish(v.union([v.string(), v.number()])),
  properties: v.nullish(v.looseObject({ bannedWord: v.nullish(v.string()) })),
});

const task = v.object({
  id: v.string(),
  status: v.nullish(
    v.picklist(['NOT_START', 'SUBMITTED', 'IN_PROGRESS', 'MODAL', 'CANCEL', 'FAILURE', 'SUCCESS']),
    'NOT_START',
  ),
  progress: v.nullish(v.string()),
  imageUrl: v.nullish(v.string()),
  imageUrls: v.nullish(v.array(v.union([v.string(), v.object({ url: v.string() })]))),
  failReason: v.nullish(v.string()),
});
const tasks = v.array(v.object({ id: v.string(), state: v.nullish(v.string()) }));

/**
 * midjourney-proxy on the operator's own machine, the Java original or its .NET fork. Our mark is the task's `state`, which its list of
 * tasks shows.
 * @param apiKey its secret, if it has one
 * @param baseUrl without /mj
 */
export function mjProxy({ apiKey, baseUrl }: { apiKey?: string | undefined; baseUrl: string }): Bridge {
  const call = createCall({
    baseUrl,
    headers: apiKey ? { 'mj-api-secret': apiKey } : {},
    said: (answer) => (v.is(submitted, answer) ? (answer.description ?? undefined) : undefined),
  });

  return {
    name: 'mj-proxy',
    pollInterval: pollInterval(3000, baseUrl),

    async imagine(prompt, ref) {
      const answer = await call('/mj/submit/imagine', { body: { prompt, state: ref } });
      if (!v.is(submitted, answer)) throw unexpectedAnswer(answer);
      const { code, result, description, properties } = answer;
      if (TAKEN.includes(code)) {
        if (result === null || result === undefined || result === '') throw unexpectedAnswer(answer);
        return String(result);
      }
      const word = properties?.bannedWord;
      throw bridgeError(
        REFUSED[code] ?? 'upstream_error',
        word ? `“${word}”` : (description ?? ''),
        unexpectedAnswer(answer),
      );
    },

    async find(ref, signal) {
      const answer = await call('/mj/task/list', { signal });
      return parse(tasks, answer).find(({ state }) => state === ref)?.id;
    },

    async getStatus(id, signal) {
      const answer = await call(`/mj/task/${encodeURIComponent(id)}/fetch`, { signal }).catch((error) => {
        throw statusOf(error) === 404 ? forgottenImagine(error) : error;
      });
      if (answer === undefined || answer === null || answer === '') throw forgottenImagine(); // an empty answer: no such task
      const { status, progress, imageUrl, imageUrls, failReason } = parse(task, answer);
      if (status === 'FAILURE' || status === 'CANCEL')
        return { is: 'failed', error: bridgeError(codeOf(failReason ?? ''), failReason ?? status) };
      if (status !== 'SUCCESS') return { is: 'working', progress: toFraction(progress) };
      const pictures = imageUrls?.length === 4 ? imageUrls.map((url) => (typeof url === 'string' ? url : url.url)) : [];
      if (pictures.length === 0 && !imageUrl) throw bridgeError('upstream_error', '', unexpectedAnswer(answer));
      return { is: 'done', pictures, grid: imageUrl ?? undefined };
    },

    /** The fork's; the original answers 404. */
    async cancel(id) {
      await call(`/mj/task/${encodeURIComponent(id)}/cancel`, { body: {} });
    },

    trusts: (url) => url.host === new URL(baseUrl).host,
  };
}
