/** Values of text fields, as forms and command lines carry them. Empty text counts as absent. */
export const parseTextFields = (fields: Iterable<readonly [name: string, text: string]>): Record<string, unknown> =>
  Object.fromEntries([...fields].filter(([, text]) => text.trim() !== ''));
