/** Gathers fields `metadata[KEY]` of a form or query in one object `metadata`. */
export function gatherMetadata<T>(fields: Iterable<readonly [name: string, value: T]>): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  const pairs: [string, T][] = [];
  for (const [name, value] of fields) {
    const [, key] = /^metadata\[(.*)\]$/s.exec(name) ?? [];
    if (key === undefined) values[name] = value;
    else pairs.push([key, value]);
  }
  return pairs.length === 0 ? values : { ...values, metadata: Object.fromEntries(pairs) };
}

/** Values of text fields, as forms and command lines carry them. Empty text counts as absent. */
export const parseTextFields = (fields: Iterable<readonly [name: string, text: string]>): Record<string, unknown> =>
  gatherMetadata([...fields].filter(([, text]) => text.trim() !== ''));
