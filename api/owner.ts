import type { Context } from 'hono';

/** Whose tasks a request may see: the id of its API key; there are none yet. */
export const ownerOf = (_c: Context): string => 'local';
