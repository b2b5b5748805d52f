import * as v from 'valibot';
import { type Bridge, bridgeError, codeOf } from './bridge.ts';
import { createCall, forgottenImagine, parse, pollInterval, statusOf, unexpectedAnswer } from './bridge-call.ts';

const taken = v.object({ job_id: v.pipe(v.string(), v.nonEmpty()) });
/** What went wrong; jobs that have not failed carry one too, its code 0. */
const failure = v.object({
  code: v.nullish(v.union([v.number(), v.string()])),
  raw_message: v.nullish(v.string()),
  message: v.nullish(v.string()),
});
const refusal = v.union([v.object({ error: failure }), failure]);

const job = v.object({
  status: v.picklist(['pending', 'staged', 'processing', 'completed', 'failed']),
  output: v.nullish(v.object({ image_url: v.nullish(v.string()), image_urls: v.nullish(v.array(v.string())) })),
  error: v.nullish(failure),
});

/** Legnext tells no percentage, only how far a job has come. */
const PROGRESS = { pending: 0, staged: 0.1, processing: 0.3 };

const wordsOf = ({ message, raw_message }: v.InferOutput<typeof failure>) => message || raw_message || undefined;

/** Legnext: x-api-key. It keeps no mark of ours; jobs that it has not begun wait in its queue. */
export function legnext({
  apiKey,
  baseUrl = 'https://api.legnext.ai',
}: {
  apiKey: string;
  baseUrl?: string | undefined;
}): Bridge {
  const call = createCall({
    baseUrl,
    headers: { 'x-api-key': apiKey },
    said: (answer) => (v.is(refusal, answer) ? wordsOf('error' in answer ? answer.error : answer) : undefined),
  });

  return {
    name: 'legnext',
    pollInterval: pollInterval(10_000, baseUrl), // 10 to 30 s are documented

    async imagine(prompt) {
      const answer = await call('/api/v1/diffusion', { body: { text: prompt } });
      if (v.is(taken, answer)) return answer.job_id;
      throw unexpectedAnswer(answer);
    },

    async getStatus(id, signal) {
      const answer = await call(`/api/v1/job/${encodeURIComponent(id)}`, { signal }).catch((error) => {
        throw statusOf(error) === 404 ? forgottenImagine(error) : error;
      });
      const { status, output, error } = parse(job, answer);
      if (status === 'failed') {
        const said = (error && wordsOf(error)) ?? '';
        return { is: 'failed', error: bridgeError(codeOf(said), said) };
      }
      if (status !== 'completed') return { is: 'working', progress: PROGRESS[status] };
      const pictures = output?.image_urls?.length === 4 ? output.image_urls : [];
      const grid = output?.image_url || undefined;
      if (pictures.length === 0 && !grid) throw bridgeError('upstream_error', '', unexpectedAnswer(answer));
      return { is: 'done', pictures, grid };
    },

    trusts: (url) => url.host === new URL(baseUrl).host,
  };
}
