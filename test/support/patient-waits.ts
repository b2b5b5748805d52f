import { vi } from 'vitest';

/** By default Vitest waits for a second, which a busy machine may exceed. This is shortly before a test's own timeout. */
const timeout = 50_000;

const { waitFor, waitUntil } = vi;
vi.waitFor = (check, options) => waitFor(check, typeof options === 'number' ? options : { timeout, ...options });
vi.waitUntil = (check, options) => waitUntil(check, typeof options === 'number' ? options : { timeout, ...options });
