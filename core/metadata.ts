/** Metadata: texts that a client attaches to a task to find it again. The service does not read them. */
import * as v from 'valibot';

export type Metadata = Record<string, string>;

const [MAX_PAIRS, MAX_VALUE] = [16, 512];
/** No quotes, backslashes or brackets: the store searches in JSON text, and forms write `metadata[KEY]`. */
const KEY = /^[\p{L}\p{N} _.:/@+-]{1,64}$/u;
const ALLOWED = `must be an object of at most ${MAX_PAIRS} texts of at most ${MAX_VALUE} characters; a key has 1 to 64 letters, digits, spaces or _ . : / @ + -; in a form send metadata[KEY]`;

const isValue = (value: unknown) =>
  typeof value === 'string' &&
  value.length <= 2 * MAX_VALUE &&
  [...value].length <= MAX_VALUE &&
  value.isWellFormed() &&
  !value.includes('\0');

function isMetadata(value: unknown): boolean {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
  const entries = Object.entries(value);
  return entries.length <= MAX_PAIRS && entries.every(([key, text]) => KEY.test(key) && isValue(text));
}

/** The output has its keys in one order, so that equal metadata has equal JSON. */
export const metadataSchema = (description: string) =>
  v.pipe(
    v.custom<Metadata>(isMetadata, ALLOWED),
    v.metadata({
      type: 'object',
      description,
      additionalProperties: { type: 'string', maxLength: MAX_VALUE },
      maxProperties: MAX_PAIRS,
    }),
    v.transform((pairs): Metadata => Object.fromEntries(Object.entries(pairs).sort(([a], [b]) => (a < b ? -1 : 1)))),
  );
