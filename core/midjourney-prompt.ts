/**
 * Prompts cost the operator money, so only a part of Midjourney's language is allowed.
 *
 * Refused in a request, and again in a job: flags that make several imagines of one, change the price or make videos, and
 * {permutations, in braces}. Escaped for the bridge: URLs, which Midjourney would fetch as picture prompts.
 */
import { parseRatio } from './frame-size.ts';

/** Flags by the reason why they are refused. `bs`, `end`, `loop` and `motion` belong to videos. */
const COSTLY = {
  'it costs several imagines': ['repeat', 'r'],
  'the operator chooses the speed': ['fast', 'relax', 'turbo'],
  'the prompt must make a picture, not a video': ['video', 'motion', 'loop', 'bs', 'end'],
};
const NAMES = Object.values(COSTLY).flat().join('|');

/** Phones turn two hyphens into a long dash. A flag's name ends where no letter follows. */
const LONG_DASH = '[\u2012-\u2015\u2e3a\u2e3b]';
const HYPHEN = '[-\u2010\u2011\u2012\u2013\u2212]';
/** A match begins at the first of several hyphens, so a long row of them takes linear time. */
const HYPHENS = `(?<!${HYPHEN})${HYPHEN}{2,}`;
const FLAG = new RegExp(`(?:${HYPHENS}|(?<=^|\\s)${LONG_DASH}+)(${NAMES})(?![a-z])`, 'i');
/** A long dash between two words, as in `a sea—fast waves`, begins no flag. It gets spaces around it, so that no bridge reads a flag. */
const GLUED = new RegExp(`(?<=\\S)${LONG_DASH}+(?=(?:${NAMES})(?![a-z]))`, 'gi');

const INVISIBLE = /[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]/g;

/** An opening and a later closing brace, except the escaped `\{`. It is anchored, so it takes linear time. */
const PERMUTATION = /^(?:[^\\{]|\\.)*\{(?:[^\\}]|\\.)*\}/s;

const ALLOWED = 'flags for the picture are allowed, such as --ar, --v, --stylize, --chaos, --seed and --no';

/** Why a prompt is refused, as the end of a sentence about it; undefined if it is allowed. */
export function findForbidden(prompt: string): string | undefined {
  const flag = FLAG.exec(prompt.normalize('NFKC').replace(INVISIBLE, ''))?.[1]?.toLowerCase();
  if (flag) {
    const [why] = Object.entries(COSTLY).find(([, names]) => names.includes(flag))!;
    return `must not contain --${flag} (${why}); ${ALLOWED}`;
  }
  if (PERMUTATION.test(prompt)) return 'must not contain {permutations, in braces}; write ( ), or \\{ \\} for braces';
  return undefined;
}

/**
 * The prompt that the bridge gets. URLs before the flags lose their `https://`, so that Midjourney reads `example.com/cat.png` as words;
 * some bridges move URLs to the front. Escaped braces become parentheses. The frame's aspect ratio is added unless the prompt has one.
 */
export function toBridgePrompt(prompt: string, W: number, H: number): string {
  const [, words, flags] = /^(.*?)((?:^|\s)(?:--|\u2014)\w.*)?$/s.exec(prompt)!;
  const text = words!.replace(/[a-z][a-z\d+.-]*:\/\/+/gi, '') + (flags ?? '');
  const plain = text.replace(/\\+\{/g, '(').replace(/\\+\}/g, ')').replace(GLUED, ' $& ');
  return addAspectRatio(plain.trim(), W, H);
}

/** Midjourney's flag for the aspect ratio. */
const ASPECT_RATIO = /(?:^|\s)(?:--|—)(?:ar|aspect)[\s=]\s*(\S*)/i;

/** The prompt's aspect ratio, width divided by height; undefined if it has none that can be read. */
export const aspectRatioOf = (prompt: string): number | undefined => parseRatio(ASPECT_RATIO.exec(prompt)?.[1] ?? '');

/** Where Midjourney's flags begin. A long dash begins one only before `ar`: other providers get prose, where it is punctuation. */
const FIRST_FLAG = /(?:^|\s)(?:--[a-z]|—(?:ar|aspect)[\s=])/i;

/**
 * For providers that do not know Midjourney's flags, which end a prompt: its words, and the names of the flags.
 * @returns the whole prompt as its words if it has nothing else
 */
export function splitFlags(prompt: string): { words: string; flags: string[] } {
  const at = FIRST_FLAG.exec(prompt)?.index ?? prompt.length;
  const words = prompt
    .slice(0, at)
    .replace(/\\+([{}])/g, '$1')
    .trim();
  const names = [...prompt.slice(at).matchAll(/(?:^|\s)(?:--|—)([a-z]+)/gi)].map(
    ([, name]) => `--${name!.toLowerCase()}`,
  );
  return { words: words || prompt.trim(), flags: [...new Set(names)] };
}

/** Adds Midjourney's flag for the frame's aspect ratio, unless the prompt has one. */
export function addAspectRatio(prompt: string, W: number, H: number): string {
  if (ASPECT_RATIO.test(prompt)) return prompt;
  const divisor = (function gcd(a: number, b: number): number {
    return b === 0 ? a : gcd(b, a % b);
  })(W, H);
  return `${prompt} --ar ${W / divisor}:${H / divisor}`;
}
