/** Sessions that are kept for the next job, as far as memory reaches. */
import type { Graph } from './graph.ts';
import { choosePolicy, type Demand, type Device, demand } from './policy.ts';
import { OutOfMemory, openSession, type Session, type SessionOptions } from './session.ts';
import type { Policy } from './value.ts';

export interface SessionsOptions extends Pick<SessionOptions, 'threads' | 'onRun'> {
  device: Device;
  /** bytes that all of them together may use */
  memory: number;
  /** called when a session has been opened */
  onOpen?: ((opened: { network: string; policy: Policy; ms: number }) => void) | undefined;
}

export interface Use {
  /** how often it will run for this job */
  runs: number;
  /** bytes that others will need while this one is kept; default 0 */
  beside?: number;
}

/** Even sessions that hold next to nothing have their graph. */
const MOST = 12;

/** For one user at a time: a session that was given may be closed when the next is asked for. */
export function createSessions({ device, memory, threads, onRun, onOpen }: SessionsOptions) {
  const kept = new Map<string, { session: Session; demand: Demand }>(); // the least recently used first

  /** Closes those used least recently until `bytes` are free, and a place where none is spared. */
  async function makeRoom(bytes: number, sparing?: string): Promise<void> {
    for (const [key, { session }] of [...kept]) {
      const held = [...kept].reduce((sum, [other, { demand }]) => sum + (other === sparing ? 0 : demand.held), 0);
      if (held + bytes <= memory && (sparing !== undefined || kept.size < MOST)) return;
      if (key === sparing) continue;
      kept.delete(key);
      await session.close();
    }
  }

  async function closeAll(): Promise<void> {
    const sessions = [...kept.values()];
    kept.clear();
    for (const { session } of sessions) await session.close();
  }

  async function open(network: string, graph: Graph): Promise<Session> {
    const session = await openSession(graph, { ...(threads !== undefined && { threads }), ...(onRun && { onRun }) });
    onOpen?.({ network, policy: graph.policy, ms: Math.round(session.took.opening) });
    return session;
  }

  return {
    /**
     * The session of a network for one shape, opened if it is not there.
     * @param written its graph for a policy
     * @throws OutOfMemory when it can't be opened even with nothing beside it and its weights left in the file
     */
    async at(network: string, written: (policy: Policy) => Graph, { runs, beside = 0 }: Use): Promise<Session> {
      const wanted = choosePolicy(written, { device, runs, memory, beside });
      const shapes = written(wanted)
        .inputs.map(({ shape }) => shape.join('×'))
        .join(' ');
      // Whatever is kept of another policy is not used: a job's result must not depend on those before it.
      const keyOf = (policy: Policy) => `${network} ${shapes} ${policy}`;
      const found = kept.get(keyOf(wanted));
      if (found) {
        await makeRoom(found.demand.peak, keyOf(wanted));
        kept.delete(keyOf(wanted));
        kept.set(keyOf(wanted), found);
        return found.session;
      }
      const keep = async (policy: Policy) => {
        const graph = written(policy);
        const own = demand(graph);
        await makeRoom(own.peak);
        const session = await open(network, graph);
        kept.set(keyOf(policy), { session, demand: own });
        return session;
      };
      try {
        return await keep(wanted);
      } catch (error) {
        if (!(error instanceof OutOfMemory)) throw error;
        await closeAll();
        return await keep(wanted === 'cuda' ? 'cuda' : 'mapped');
      }
    },

    /** Closes a session that was given if opening it took at most `ms`: then its memory is worth more. A GPU's time is worth more still. */
    async closeIfCheap(session: Session, ms: number): Promise<void> {
      if (device === 'cuda' || session.took.opening > ms) return;
      const [key] = [...kept].find(([, other]) => other.session === session) ?? [];
      if (key === undefined) return; // others needed its memory
      kept.delete(key);
      await session.close();
    },
    closeAll,
  };
}
