/**
 * A lock that is granted in the order of the requests.
 * @returns `lock`, which resolves to `unlock`. If its signal aborts first, it leaves the queue and rejects with the signal's reason.
 * @example const unlock = await lock(signal); try { … } finally { unlock(); }
 */
export function createMutex() {
  let last: Promise<void> = Promise.resolve(); // settles when all earlier requests are done; never rejects

  return async function lock(signal: AbortSignal): Promise<() => void> {
    const before = last;
    let unlock = () => {};
    last = new Promise((resolve) => {
      unlock = resolve;
    });
    let stop = () => {};
    const aborted = new Promise<void>((resolve) => {
      stop = resolve;
    });
    signal.addEventListener('abort', stop);
    if (!signal.aborted) await Promise.race([before, aborted]);
    signal.removeEventListener('abort', stop);
    if (signal.aborted) {
      before.then(unlock); // later requests still wait for earlier ones
      throw signal.reason;
    }
    return unlock;
  };
}
