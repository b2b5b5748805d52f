/** What a Midjourney bridge is, and the one list of ways in which all of them fail. */
import { JobError } from '../../../core/job.ts';

export const BRIDGES = ['tnl', 'imaginepro', 'legnext', 'mj-proxy'] as const;
export type BridgeName = (typeof BRIDGES)[number];

/** A third-party Midjourney API: one file each, a function that returns this. */
export interface Bridge {
  readonly name: BridgeName;
  /** How long to wait between two looks at an imagine, in milliseconds: by the bridge's own rate limit. */
  readonly pollInterval: number;
  /**
   * Asks, and pays, for four pictures. It can't be aborted: an answer that is not heard is money lost.
   * @param ref our own mark, which the bridge keeps with the imagine if it can
   * @returns the bridge's id
   * @throws JobError: the bridge refused and nothing was taken. Anything else that is thrown leaves open whether it was.
   */
  imagine(prompt: string, ref: string): Promise<string>;
  /** The id of the imagine with our mark, if the bridge has one: where it can look one up. */
  find?(ref: string, signal: AbortSignal): Promise<string | undefined>;
  /**
   * One look at an imagine.
   * @throws JobError: the look was refused, or not understood. Anything else that is thrown: it can't be looked at now.
   */
  getStatus(id: string, signal: AbortSignal): Promise<ImagineState>;
  /** Stops an imagine that nobody wants any more, where the bridge can. */
  cancel?(id: string): Promise<void>;
  /** A picture's bytes by way of the bridge, for when its address refuses them, where the bridge can. */
  picture?(url: string, signal: AbortSignal): Promise<Uint8Array>;
  /** Whether a picture's address may be reached although it is not public: it lies on the operator's own bridge. */
  trusts(url: URL): boolean;
}

export type ImagineState =
  /** progress: 0–1 */
  | { is: 'working'; progress: number }
  /** addresses of the four pictures, or none, and of the 2×2 grid of them; at least one of the two */
  | { is: 'done'; pictures: string[]; grid?: string | undefined }
  /** it is over, and nothing will come of it */
  | { is: 'failed'; error: JobError };

/**
 * Every error of a bridge.
 * elsewhere: whether another bridge may do what this one would not. aboutPrompt: whether the bridge's own words are for the caller; the
 * rest is the operator's affair and stands in the log.
 */
export const BRIDGE_ERRORS = {
  banned_prompt: { elsewhere: false, aboutPrompt: true, text: 'Midjourney refuses the prompt' },
  invalid_input: { elsewhere: false, aboutPrompt: true, text: 'Midjourney does not understand the prompt' },
  image_unavailable: {
    elsewhere: false,
    aboutPrompt: true,
    text: 'Midjourney could not get a picture that the prompt names',
  },
  queue_full: { elsewhere: true, aboutPrompt: false, text: 'the Midjourney bridge’s queue is full' },
  no_credit: {
    elsewhere: true,
    aboutPrompt: false,
    text: 'the Midjourney bridge refused the operator’s key or has no credit',
  },
  rate_limited: { elsewhere: true, aboutPrompt: false, text: 'the Midjourney bridge asks to slow down' },
  upstream_timeout: { elsewhere: true, aboutPrompt: false, text: 'the Midjourney bridge took too long' },
  upstream_error: { elsewhere: true, aboutPrompt: false, text: 'the Midjourney bridge failed' },
} as const;
export type BridgeErrorCode = keyof typeof BRIDGE_ERRORS;

/**
 * @param said the bridge's own words
 * @param cause for the log; the words themselves, if it is left out
 */
export function bridgeError(code: BridgeErrorCode, said = '', cause: Error = new Error(said)): JobError {
  const { text, aboutPrompt } = BRIDGE_ERRORS[code];
  return new JobError(code, aboutPrompt && said ? `${text}: ${said.slice(0, 200)}` : text, { cause });
}

/** Midjourney's titles of its failures, and the bridges' own, which both come as free text; the first that fits counts. */
const WORDS: [RegExp, BridgeErrorCode][] = [
  [/moderation.outage|internal/, 'upstream_error'],
  [/banned|blocked|moderat|sensitive|nsfw|polic[yi]|violat|prohibited|敏感/, 'banned_prompt'],
  [/queue.*full|full.*queue|too.many.*(job|task)|concurren|队列已满/, 'queue_full'],
  [/credit|balance|quota|fast.hours|subscription|payment|api.?key|unauthori/, 'no_credit'],
  [/rate.?limit|too.many.requests|slow.down/, 'rate_limited'],
  [/invalid.link|invalid.(image|url)/, 'image_unavailable'],
  [/invalid|unrecogni[sz]ed|parameter/, 'invalid_input'],
  [/time.?out|timed.out|超时/, 'upstream_timeout'],
];

/** What a bridge's words mean. Of `[Title] description` only the title counts: the description may quote the prompt. */
export function codeOf(said: string, otherwise: BridgeErrorCode = 'upstream_error'): BridgeErrorCode {
  const words = (/^\s*\[([^\]]+)\]/.exec(said)?.[1] ?? said).toLowerCase();
  return WORDS.find(([pattern]) => pattern.test(words))?.[1] ?? otherwise;
}
