/** Thrown when too many requests wait for a slot. */
export class QueueFullError extends Error {}

/** How many requests with an owner may wait. */
interface QueueLimits {
  all: number;
  perOwner: number;
}

interface Waiting {
  /** undefined: no owner */
  owner: string | undefined;
  start: () => void;
}

/**
 * Lets `count` requests run at a time. An owner has at most one slot, and owners take turns. Requests without an owner run in the order
 * of their arrival, and their queue is unlimited.
 * @returns `take`, which resolves to `free`. If its signal aborts first, it leaves the queue and rejects with the signal's reason.
 * @example const free = await take(signal); try { … } finally { free(); }
 */
export function createSlots(count: number, limits: QueueLimits = { all: Infinity, perOwner: Infinity }) {
  const running = new Set<Waiting>();
  let queue: Waiting[] = [];

  const isOf = (owner: string | undefined) => (other: Waiting) => owner !== undefined && other.owner === owner;

  function startNext(): void {
    const next = queue.find(({ owner }) => ![...running].some(isOf(owner)));
    if (!next || running.size >= count) return;
    queue = queue.filter((other) => other !== next);
    running.add(next);
    next.start();
    startNext();
  }

  function free(ended: Waiting): void {
    if (!running.delete(ended)) return;
    const isSameOwner = isOf(ended.owner);
    queue = [...queue.filter((other) => !isSameOwner(other)), ...queue.filter(isSameOwner)]; // it is the turn of other owners
    startNext();
  }

  function assertSpace(owner: string): void {
    if (queue.filter(({ owner }) => owner !== undefined).length >= limits.all)
      throw new QueueFullError(`${limits.all} requests wait already`);
    if (queue.filter(isOf(owner)).length >= limits.perOwner)
      throw new QueueFullError(`${limits.perOwner} requests of this owner wait already`);
  }

  /** @throws QueueFullError too many requests with an owner wait */
  return async function take(signal?: AbortSignal, owner?: string): Promise<() => void> {
    signal?.throwIfAborted();
    if (owner !== undefined) assertSpace(owner);
    let leave = () => {};
    const waiting: Waiting = { owner, start() {} };
    const started = new Promise<void>((resolve, reject) => {
      waiting.start = resolve;
      leave = () => {
        queue = queue.filter((other) => other !== waiting);
        reject(signal?.reason);
      };
    });
    signal?.addEventListener('abort', leave);
    queue.push(waiting);
    startNext();
    await started.finally(() => signal?.removeEventListener('abort', leave));
    return () => free(waiting);
  };
}
