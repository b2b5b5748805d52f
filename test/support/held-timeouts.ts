/** Holds the signals of `AbortSignal.timeout(ms)` with this time, until the test lets them time out. The test restores the function. */
export function holdTimeouts(ms: number) {
  const { timeout } = AbortSignal;
  const held: AbortController[] = [];
  AbortSignal.timeout = (asked) => {
    if (asked !== ms) return timeout(asked);
    const controller = new AbortController();
    held.push(controller);
    return controller.signal;
  };
  return {
    held,
    expire() {
      for (const controller of held) controller.abort(new DOMException('', 'TimeoutError'));
    },
    restore() {
      AbortSignal.timeout = timeout;
    },
  };
}
