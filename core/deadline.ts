/** A signal that comes with another one, or after some time. */
export interface Deadline {
  readonly signal: AbortSignal;
  /** whether it was the time */
  passed(): boolean;
  /** to be called when the work is done */
  clear(): void;
}

/**
 * Like `AbortSignal.any([signal, AbortSignal.timeout(ms)])`, which on Node 20 never comes once the collector has taken the inner
 * signal.
 */
export function deadline(signal: AbortSignal, ms: number): Deadline {
  const controller = new AbortController();
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    controller.abort(new DOMException(`took longer than ${ms / 1000} s`, 'TimeoutError'));
  }, ms);
  const abort = () => controller.abort(signal.reason);
  signal.addEventListener('abort', abort);
  if (signal.aborted) abort();
  return {
    signal: controller.signal,
    passed: () => late,
    clear() {
      clearTimeout(timer);
      signal.removeEventListener('abort', abort);
    },
  };
}
