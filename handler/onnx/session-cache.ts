/** Keeps sessions for the next job, as far as memory reaches. */
import type { Graph } from './graph.ts';
import { choosePolicy, type Demand, type Device, demand, SMALLEST_POLICY } from './policy.ts';
import { OutOfMemory, openSession, type Session, type SessionOptions } from './session.ts';
import type { GpuLimits, Policy } from './value.ts';

export interface SessionsOptions extends Pick<SessionOptions, 'threads' | 'onRun'> {
  device: Device;
  /** of the device, if it is a WebGPU device */
  limits?: GpuLimits | undefined;
  /** bytes that all of them together may use */
  memory: number;
  /** called when a session has been opened */
  onOpen?: ((opened: { network: string; policy: Policy; ms: number }) => void) | undefined;
}

/** Even a session that holds next to no memory has its graph. */
const MAX_SESSIONS = 12;

/** For one user at a time: getting a session may close those that were got before. */
export function createSessions({ device, memory, threads, onRun, onOpen }: SessionsOptions) {
  const kept = new Map<string, { session: Session; demand: Demand }>(); // the least recently used first

  async function close(key: string): Promise<void> {
    const { session } = kept.get(key)!;
    kept.delete(key);
    await session.close();
  }

  async function closeAll(): Promise<void> {
    for (const key of [...kept.keys()]) await close(key);
  }

  /** Closes the least recently used until `bytes` are free. Keeps `spared` open if it is given; else leaves room for another session. */
  async function makeRoom(bytes: number, spared?: string): Promise<void> {
    for (const key of [...kept.keys()]) {
      const held = [...kept].reduce((sum, [other, { demand }]) => sum + (other === spared ? 0 : demand.held), 0);
      if (held + bytes <= memory && (spared !== undefined || kept.size < MAX_SESSIONS)) return;
      if (key !== spared) await close(key);
    }
  }

  async function open(network: string, key: string, graph: Graph): Promise<Session> {
    const own = demand(graph);
    await makeRoom(own.peak);
    const session = await openSession(graph, { threads, onRun });
    onOpen?.({ network, policy: graph.policy, ms: Math.round(session.timings.open) });
    kept.set(key, { session, demand: own });
    return session;
  }

  return {
    /**
     * The session of a network for one shape, opened if it is not kept.
     * @param graphOf its graph for a policy
     * @param runs how often it will run for this job
     * @param reservedBytes what other sessions will need while this one is kept
     * @throws OutOfMemory: it can't be opened even alone and with its weights in the file
     */
    async get(network: string, graphOf: (policy: Policy) => Graph, runs: number, reservedBytes = 0): Promise<Session> {
      const policy = choosePolicy(graphOf, { device, runs, memory, reservedBytes });
      const shapes = graphOf(policy).inputs.map(({ shape }) => shape.join('×'));
      // A session of another policy is not used: a job's result must not depend on the jobs before it.
      const keyOf = (policy: Policy) => [network, ...shapes, policy].join(' ');
      const key = keyOf(policy);
      const found = kept.get(key);
      if (found) {
        await makeRoom(found.demand.peak, key);
        kept.delete(key);
        kept.set(key, found);
        return found.session;
      }
      try {
        return await open(network, key, graphOf(policy));
      } catch (error) {
        if (!(error instanceof OutOfMemory)) throw error;
        await closeAll();
        const smallest = SMALLEST_POLICY[device];
        return await open(network, keyOf(smallest), graphOf(smallest));
      }
    },

    /** Whether a session is still open. */
    isOpen: (session: Session) => [...kept.values()].some((other) => other.session === session),

    /** Closes a session if opening it took at most `ms`: then its memory is worth more. On a GPU, time is worth more. */
    async closeIfCheap(session: Session, ms: number): Promise<void> {
      if (device !== 'cpu' || session.timings.open > ms) return;
      const [key] = [...kept].find(([, other]) => other.session === session) ?? [];
      if (key !== undefined) await close(key); // else it was closed for others
    },
    closeAll,
  };
}
