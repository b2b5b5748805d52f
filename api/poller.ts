/** Pause between two runs, so that what comes in a burst is done together; milliseconds. */
const MIN_PAUSE = 10;

export interface Poller {
  /** Runs `work` now, or once more if it is just running. */
  wake(): void;
  /** Resolves when `work` is not running; it does not run again. */
  stop(): Promise<void>;
}

/**
 * Repeats `work` when it is due, never twice at the same time.
 *
 *   waiting ──time is over, or wake()──▶ running ──▶ waiting
 *
 * @param work returns the milliseconds until its next run
 * @param onError returns the milliseconds until the next run after a failed one
 */
export function createPoller(work: () => Promise<number>, onError: (error: unknown) => number): Poller {
  let timer: NodeJS.Timeout | undefined;
  let running: Promise<void> | undefined;
  let isWoken = false;
  let stopped = false;

  function schedule(pause: number): void {
    clearTimeout(timer);
    if (stopped) return;
    timer = setTimeout(
      () => {
        running = run();
      },
      Math.max(MIN_PAUSE, pause),
    );
  }

  async function run(): Promise<void> {
    isWoken = false;
    const pause = await work().catch(onError);
    running = undefined;
    schedule(isWoken ? 0 : pause);
  }

  return {
    wake() {
      if (isWoken) return;
      isWoken = true;
      if (!running) schedule(0);
    },

    async stop() {
      stopped = true;
      clearTimeout(timer);
      await running;
    },
  };
}
