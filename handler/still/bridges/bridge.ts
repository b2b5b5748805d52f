/** What a bridge is, and the errors that all bridges share. */
import { JobError } from '../../../core/job.ts';

export const BRIDGES = ['tnl', 'imaginepro', 'legnext', 'mj-proxy', 'openai'] as const;
export type BridgeName = (typeof BRIDGES)[number];

/** An image provider's API. Each has its own file, which describes it to createBridge. */
export interface Bridge {
  readonly name: BridgeName;
  /** Milliseconds between two status requests, by the provider's rate limit. */
  readonly pollInterval: number;
  /** pictures of one imagine, 1–4 */
  readonly count: number;
  /** milliseconds until an answer to `imagine` is given up */
  readonly answerTimeout: number;
  /** The text for `imagine`, with the frame's aspect ratio. @param W, H pixels */
  writePrompt(prompt: string, W: number, H: number): string;
  /** Names of Midjourney's flags in a prompt that the provider does not know, such as `--stylize`; absent where it knows all. */
  unknownFlags?(prompt: string): string[];
  /**
   * Requests, and pays for, `count` pictures. It can't be aborted: a response that is not read is money lost.
   * @param prompt from `writePrompt`
   * @param ref our reference, which most providers store with the imagine
   * @returns the provider's id; or, where it answers only when they are drawn, the URLs of the pictures, also `data:`
   * @throws JobError if the provider refused and charged nothing; any other error leaves that open
   */
  imagine(prompt: string, ref: string): Promise<string | string[]>;
  /** The id of the imagine with our reference, or undefined; only where the provider can search by reference. */
  find?(ref: string, signal: AbortSignal): Promise<string | undefined>;
  /** @throws JobError if the request was refused or the response is malformed; any other error is temporary */
  getStatus(id: string, signal: AbortSignal): Promise<ImagineStatus>;
  /** Stops an imagine, where the provider can. */
  cancel?(id: string): Promise<void>;
  /** Downloads a picture through the provider, for hosts that refuse us, where the provider can. */
  picture?(url: string, signal: AbortSignal): Promise<Uint8Array>;
  /** Whether a picture's URL may be fetched from a private address: it is on the bridge's own host. */
  trusts(url: URL): boolean;
}

export type ImagineStatus =
  /** progress: 0–1 */
  | { status: 'working'; progress: number }
  /** URLs of the pictures, or none, and of Midjourney's 2×2 grid of four; at least one of the two */
  | { status: 'done'; pictures: string[]; grid: string | undefined }
  /** final: there will be no pictures */
  | { status: 'failed'; error: JobError };

/**
 * The errors of all bridges. Where the prompt is at fault, no other bridge is tried and the provider's message is passed on to the
 * caller. All other messages are the operator's affair and go to the log, which removes the prompt's words, keys and links.
 */
export const BRIDGE_ERRORS = {
  banned_prompt: { isPromptsFault: true, text: 'the image provider refuses the prompt' },
  invalid_input: { isPromptsFault: true, text: 'the image provider does not understand the prompt' },
  image_unavailable: { isPromptsFault: true, text: 'the image provider could not get a picture that the prompt names' },
  queue_full: { isPromptsFault: false, text: 'the bridge’s queue is full' },
  no_credit: { isPromptsFault: false, text: 'the bridge refused the operator’s key or has no credit' },
  rate_limited: { isPromptsFault: false, text: 'the bridge asks to slow down' },
  upstream_timeout: { isPromptsFault: false, text: 'the bridge took too long' },
  upstream_error: { isPromptsFault: false, text: 'the bridge failed' },
} as const;
export type BridgeErrorCode = keyof typeof BRIDGE_ERRORS;

/** Characters of a provider's message that are kept. */
const MAX_MESSAGE = 200;

/**
 * @param message the provider's own
 * @param cause for the log; default: the message
 */
export function bridgeError(code: BridgeErrorCode, message = '', cause?: Error): JobError {
  const { text, isPromptsFault } = BRIDGE_ERRORS[code];
  const words = message.slice(0, MAX_MESSAGE).replace(/[\p{Cc}\p{Cs}]+/gu, ' '); // not every store takes these
  const options = { cause: cause ?? new Error(words) };
  return new JobError(code, isPromptsFault && words ? `${text}: ${words}` : text, options);
}

/** Failure titles of the providers, which are free text. The first match counts. */
const MESSAGE_PATTERNS: [RegExp, BridgeErrorCode][] = [
  [/moderation.outage|internal/, 'upstream_error'],
  [/banned|blocked|moderat|safety.system|sensitive|nsfw|polic[yi]|violat|prohibited|敏感/, 'banned_prompt'],
  [/queue.*full|full.*queue|too.many.*(job|task)|concurren|队列已满/, 'queue_full'],
  [/credit|balance|quota|fast.hours|subscription|payment|api.?key|unauthori/, 'no_credit'],
  [/rate.?limit|too.many.requests|slow.down/, 'rate_limited'],
  [/invalid.link|invalid.(image|url)/, 'image_unavailable'],
  [/invalid|unrecogni[sz]ed|parameter/, 'invalid_input'],
  [/time.?out|timed.out|超时/, 'upstream_timeout'],
];

/** The code for a provider's message. Of `[Title] description` only the title counts: the description may quote the prompt. */
export function classifyMessage(message: string, fallback: BridgeErrorCode = 'upstream_error'): BridgeErrorCode {
  const title = (/^\s*\[([^\]]+)\]/.exec(message)?.[1] ?? message).toLowerCase();
  return MESSAGE_PATTERNS.find(([pattern]) => pattern.test(title))?.[1] ?? fallback;
}
