import * as v from 'valibot';
import { SECOND } from '../../../core/time.ts';
import type { Bridge } from './bridge.ts';
import { type BridgeOptions, createBridge, done, failed, parse } from './create-bridge.ts';

const accepted = v.object({ job_id: v.string() });
/** What went wrong. Jobs that have not failed carry one too, with code 0. */
const failure = v.object({
  code: v.nullish(v.union([v.number(), v.string()])),
  raw_message: v.nullish(v.string()),
  message: v.nullish(v.string()),
});
const errorAnswer = v.union([v.object({ error: failure }), failure]);

const job = v.object({
  status: v.picklist(['pending', 'staged', 'processing', 'completed', 'failed']),
  output: v.nullish(v.object({ image_url: v.nullish(v.string()), image_urls: v.nullish(v.array(v.string())) })),
  error: v.nullish(failure),
});

/** Legnext reports no percentage, only a job's stage. */
const PROGRESS = { pending: 0, staged: 0.1, processing: 0.3 };

const messageOf = ({ message, raw_message }: v.InferOutput<typeof failure>) => message || raw_message || undefined;

/** Legnext. It stores no reference of ours; jobs that have not begun wait in its queue. */
export const legnext = ({ apiKey, baseUrl = 'https://api.legnext.ai' }: BridgeOptions): Bridge =>
  createBridge({
    name: 'legnext',
    baseUrl,
    headers: { 'x-api-key': apiKey },
    pollInterval: 10 * SECOND, // documented: 10 to 30 s
    errorMessage: (answer) =>
      v.is(errorAnswer, answer) ? messageOf('error' in answer ? answer.error : answer) : undefined,

    imaginePath: '/api/v1/diffusion',
    imagineBody: (prompt) => ({ text: prompt }),
    readImagine: (answer) => (v.is(accepted, answer) ? answer.job_id : undefined),

    status: {
      path: (id) => `/api/v1/job/${id}`,
      read(answer) {
        const { status, output, error } = parse(job, answer);
        if (status === 'failed') return failed(error && messageOf(error));
        if (status !== 'completed') return { status: 'working', progress: PROGRESS[status] };
        return done(answer, output?.image_urls, output?.image_url);
      },
    },
  });
