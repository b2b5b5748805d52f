/** For TypeScript programs that use the client without `allowJs`; see retry-after.js. */
export function parseRetryAfter(header: string | null | undefined, now?: number): number | undefined;
