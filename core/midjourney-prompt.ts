/**
 * A caller's prompt is the operator's money: what of Midjourney's language may be used, and how the rest stays text.
 *
 * Refused at the request (and again in a job): flags that make several imagines of one, change the price, or make videos, and
 * {permutations, in braces}. Escaped on the way to the bridge: addresses, which at the head of a prompt are pictures that Midjourney
 * fetches and builds on.
 */

/** Flags by what they would do. `bs`, `end`, `loop` and `motion` belong to videos. */
const COSTLY = {
  'repeats cost as many imagines': ['repeat', 'r'],
  'the speed is the operator’s to choose': ['fast', 'relax', 'turbo'],
  'a still is wanted, no video': ['video', 'motion', 'loop', 'bs', 'end'],
};
const NAMES = Object.values(COSTLY).flat().join('|');

/** Phones make one dash of two hyphens; a name ends where no letter follows. */
const LONG_DASH = '[\u2012-\u2015\u2e3a\u2e3b]';
const HYPHENS = '[-\u2010\u2011\u2012\u2013\u2212]{2,}';
const FLAG = new RegExp(`(?:${HYPHENS}|(?<=^|\\s)${LONG_DASH}+)(${NAMES})(?![a-z])`, 'i');
/** Within a sentence—relax, this is prose—a long dash is no flag, as long as nothing takes it for one. */
const GLUED = new RegExp(`(?<=\\S)${LONG_DASH}+(?=(?:${NAMES})(?![a-z]))`, 'gi');

const INVISIBLE = /[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]/g;

/** `\{` is a brace that is meant as one. */
const PERMUTATION = /(?<!\\)(?:\\\\)*\{[\s\S]*?(?<!\\)(?:\\\\)*\}/;

const ALLOWED = 'flags of the picture itself are allowed, such as --ar, --v, --stylize, --chaos, --seed and --no';

/** What in a prompt is not allowed, as the end of a sentence about it, or undefined. */
export function findForbidden(prompt: string): string | undefined {
  const flag = FLAG.exec(prompt.normalize('NFKC').replace(INVISIBLE, ''))?.[1]?.toLowerCase();
  if (flag) {
    const [why] = Object.entries(COSTLY).find(([, names]) => names.includes(flag))!;
    return `must be without --${flag} (${why}); ${ALLOWED}`;
  }
  if (PERMUTATION.test(prompt)) return 'must be without {permutations, in braces}; write ( ), or \\{ \\} for braces';
  return undefined;
}

/**
 * What the bridge is sent. An address loses its `https://`, so that `https://example.com/cat.png` is read as the words
 * `example.com/cat.png`: wherever it stands before the flags, for some bridges move addresses to the front. Escaped braces become round
 * ones. The frame's aspect is added unless the prompt has one.
 */
export function toBridgePrompt(prompt: string, W: number, H: number): string {
  const [, words, flags] = /^(.*?)((?:^|\s)(?:--|\u2014)\w.*)?$/s.exec(prompt)!;
  const text = words!.replace(/[a-z][a-z\d+.-]*:\/\/+/gi, '') + (flags ?? '');
  const plain = text.replace(/\\+\{/g, '(').replace(/\\+\}/g, ')').replace(GLUED, ' $& ');
  return addAspectRatio(plain.trim(), W, H);
}

/** Midjourney's aspect flag for the frame, unless the prompt has one. */
export function addAspectRatio(prompt: string, W: number, H: number): string {
  if (/(^|\s)(--|—)(ar|aspect)[\s=]/i.test(prompt)) return prompt;
  const divisor = (function gcd(a: number, b: number): number {
    return b === 0 ? a : gcd(b, a % b);
  })(W, H);
  return `${prompt} --ar ${W / divisor}:${H / divisor}`;
}
