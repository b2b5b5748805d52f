/** For TypeScript programs that use the client without `allowJs`; see sleep.js. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void>;
