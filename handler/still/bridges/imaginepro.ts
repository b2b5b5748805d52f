import * as v from 'valibot';
import { SECOND } from '../../../core/time.ts';
import { type Bridge, bridgeError, classifyMessage } from './bridge.ts';
import { type BridgeOptions, createBridge, done, failed, parse, toFraction } from './create-bridge.ts';

const accepted = v.object({ messageId: v.string() });
const refused = v.object({ success: v.union([v.literal(false), v.literal('FAIL')]), error: v.nullish(v.string()) });
/** `error` is the short form, `message` says more. */
const errorAnswer = v.object({ error: v.optional(v.string()), message: v.optional(v.string()) });

const message = v.object({
  status: v.picklist(['QUEUED', 'PROCESSING', 'DONE', 'FAIL']),
  progress: v.nullish(v.union([v.number(), v.string()])),
  uri: v.nullish(v.string()),
  originalUrl: v.nullish(v.string()),
  error: v.nullish(v.string()),
});

/** ImaginePro. It returns the grid alone, and Midjourney's own failure messages. */
export const imaginepro = ({ apiKey, baseUrl = 'https://api.imaginepro.ai' }: BridgeOptions): Bridge =>
  createBridge({
    name: 'imaginepro',
    baseUrl,
    headers: { authorization: `Bearer ${apiKey}` },
    pollInterval: 6 * SECOND, // the documented limit is 10 requests a minute
    errorMessage: (answer) => (v.is(errorAnswer, answer) ? (answer.error ?? answer.message) : undefined),

    imaginePath: '/api/v1/nova/imagine',
    imagineBody: (prompt, ref) => ({ prompt, ref }),
    readImagine(answer) {
      if (v.is(refused, answer)) throw bridgeError(classifyMessage(answer.error ?? ''), answer.error ?? '');
      return v.is(accepted, answer) ? answer.messageId : undefined;
    },

    status: {
      path: (id) => `/api/v1/midjourney/message/${id}`,
      read(answer) {
        const { status, progress, uri, originalUrl, error } = parse(message, answer);
        if (status === 'FAIL') return failed(error);
        if (status !== 'DONE') return { status: 'working', progress: toFraction(progress) };
        return done(answer, [], uri || originalUrl);
      },
    },
  });
