import * as v from 'valibot';
import { SECOND } from '../../../core/time.ts';
import { type Bridge, type BridgeErrorCode, bridgeError } from './bridge.ts';
import { createBridge, done, failed, parse, toFraction, unexpectedAnswer, unknownImagine } from './create-bridge.ts';

/** Values of `code` in the answer to a submission: done, exists already, queued. */
const ACCEPTED = [1, 21, 22];
const REFUSED: Record<number, BridgeErrorCode> = {
  3: 'upstream_error', // no account that works
  4: 'invalid_input',
  9: 'upstream_error',
  23: 'queue_full',
  24: 'banned_prompt',
};

const submission = v.object({
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
 * midjourney-proxy on the operator's own machine, the Java original or its .NET fork. Our reference is the task's `state`, which its
 * list of tasks contains.
 * @param apiKey its secret, if it has one
 * @param baseUrl without /mj
 */
export const mjProxy = ({ apiKey, baseUrl }: { apiKey?: string | undefined; baseUrl: string }): Bridge =>
  createBridge({
    name: 'mj-proxy',
    baseUrl,
    headers: apiKey ? { 'mj-api-secret': apiKey } : {},
    pollInterval: 3 * SECOND,
    errorMessage: (answer) => (v.is(submission, answer) ? (answer.description ?? undefined) : undefined),

    imaginePath: '/mj/submit/imagine',
    imagineBody: (prompt, ref) => ({ prompt, state: ref }),
    readImagine(answer) {
      if (!v.is(submission, answer)) return undefined;
      const { code, result, description, properties } = answer;
      if (ACCEPTED.includes(code)) return String(result ?? '');
      const word = properties?.bannedWord;
      const message = word ? `“${word}”` : (description ?? '');
      throw bridgeError(REFUSED[code] ?? 'upstream_error', message, unexpectedAnswer(answer));
    },

    status: {
      path: (id) => `/mj/task/${id}/fetch`,
      read(answer) {
        if (answer === undefined || answer === null || answer === '') throw unknownImagine(); // its answer for no such task
        const { status, progress, imageUrl, imageUrls, failReason } = parse(task, answer);
        if (status === 'FAILURE' || status === 'CANCEL') return failed(failReason ?? status);
        if (status !== 'SUCCESS') return { status: 'working', progress: toFraction(progress) };
        const pictures = imageUrls?.map((url) => (typeof url === 'string' ? url : url.url));
        return done(answer, pictures, imageUrl);
      },
    },

    extras: (call) => ({
      async find(ref, signal) {
        return parse(tasks, await call('/mj/task/list', { signal })).find(({ state }) => state === ref)?.id;
      },
      /** Only the fork can; the original answers 404. */
      async cancel(id) {
        await call(`/mj/task/${encodeURIComponent(id)}/cancel`, { body: {} });
      },
    }),
  });
