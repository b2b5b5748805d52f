/** Gathers fields `metadata[KEY]` of a form or query in one object `metadata`. A field `metadata` stays what it is, to be refused. */
export function gatherMetadata<T>(fields: Iterable<readonly [name: string, value: T]>): Record<string, unknown> {
  const others: (readonly [string, T])[] = [];
  const pairs: [string, T][] = [];
  for (const [name, value] of fields) {
    const [, key] = /^metadata\[(.*)\]$/s.exec(name) ?? [];
    if (key === undefined) others.push([name, value]);
    else pairs.push([key, value]);
  }
  const values: Record<string, unknown> = Object.fromEntries(others); // a name such as __proto__ stays a name
  return pairs.length === 0 ? values : { metadata: Object.fromEntries(pairs), ...values };
}

/** Values of text fields, as forms and command lines carry them. Empty text counts as absent. */
export const parseTextFields = (fields: Iterable<readonly [name: string, text: string]>): Record<string, unknown> =>
  gatherMetadata([...fields].filter(([, text]) => text.trim() !== ''));
