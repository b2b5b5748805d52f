/**
 * One at a time, in the order of asking: what a GPU or the networks' sessions can serve.
 * @returns `enter`, which resolves to the function that ends the turn. Whoever's signal comes while it waits leaves the queue; `enter`
 * then rejects with the signal's reason.
 */
export function createMutex() {
  let last: Promise<void> = Promise.resolve(); // resolves when everybody who has asked so far is done; never rejects

  return async function enter(signal: AbortSignal): Promise<() => void> {
    const before = last;
    let leave = () => {};
    last = new Promise((resolve) => {
      leave = resolve;
    });
    let stop = () => {};
    const aborted = new Promise<void>((resolve) => {
      stop = resolve;
    });
    signal.addEventListener('abort', stop);
    if (!signal.aborted) await Promise.race([before, aborted]);
    signal.removeEventListener('abort', stop);
    if (signal.aborted) {
      before.then(leave); // those behind still wait for those before
      throw signal.reason;
    }
    return leave;
  };
}
