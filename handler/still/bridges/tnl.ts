import * as v from 'valibot';
import { SECOND } from '../../../core/time.ts';
import { type Bridge, type BridgeErrorCode, bridgeError } from './bridge.ts';
import {
  type BridgeOptions,
  createBridge,
  done,
  parse,
  toFraction,
  unexpectedAnswer,
  unknownImagine,
} from './create-bridge.ts';

/** TheNextLeg's failures, which arrive as an imagine's `content`. */
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

const accepted = v.object({ success: v.literal(true), messageId: v.string() });
const refused = v.object({ success: v.literal(false), msg: v.optional(v.string()) });

const result = v.object({
  imageUrl: v.nullish(v.string()),
  imageUrls: v.nullish(v.array(v.string())),
  content: v.nullish(v.string()),
});
/** The documentation shows a finished result flat, clients read it under `response`. */
const message = v.intersect([
  result,
  v.object({ progress: v.union([v.number(), v.string()]), response: v.nullish(result) }),
]);

/** TheNextLeg v2. It can download pictures for us. */
export const tnl = ({ apiKey, baseUrl = 'https://api.thenextleg.io/v2' }: BridgeOptions): Bridge =>
  createBridge({
    name: 'tnl',
    baseUrl,
    headers: { authorization: `Bearer ${apiKey}` },
    pollInterval: 3 * SECOND,
    errorMessage: (answer) => (v.is(v.object({ msg: v.string() }), answer) ? answer.msg : undefined),
    errorCode: (status) => (status === 400 ? 'banned_prompt' : undefined), // "Invalid phrase: …"

    imaginePath: '/imagine',
    imagineBody: (prompt, ref) => ({ msg: prompt, ref }),
    readImagine(answer) {
      if (v.is(refused, answer)) throw bridgeError('upstream_error', answer.msg);
      return v.is(accepted, answer) ? answer.messageId : undefined;
    },

    status: {
      path: (id) => `/message/${id}?expireMins=60`,
      read(answer) {
        const { progress, response, ...flat } = parse(message, answer);
        const { content, imageUrl, imageUrls } = response ?? flat;
        const failure = FAILURES[content ?? ''];
        if (failure) return { status: 'failed', error: bridgeError(failure, content!) };
        if (progress === 'incomplete') throw unknownImagine();
        if (Number(progress) !== 100) return { status: 'working', progress: toFraction(progress) };
        return done(answer, imageUrls, imageUrl);
      },
    },

    extras: (call) => ({
      async picture(url, signal) {
        const bytes = await call('/getImage', { body: { imgUrl: url }, signal });
        if (bytes instanceof Blob) return new Uint8Array(await bytes.arrayBuffer());
        throw bridgeError('upstream_error', '', unexpectedAnswer(bytes));
      },
    }),
  });
