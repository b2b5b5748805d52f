/**
 * worker.py on this folder's `serve`: for the conformance tests. What a job does is said in its input.
 * GATE is an address where a job waits until the test lets it go on; WORKER_OPTIONS says what kind of worker this is.
 */
import { execFileSync } from 'node:child_process';
import type { Socket } from 'node:net';
import { type Handle, serve } from '../../../handler/runpod/index.ts';

interface Options {
  concurrency?: number;
  generator?: boolean;
  refreshWorker?: boolean;
  aggregateStream?: boolean;
  unfit?: string;
}

const { generator, unfit, ...options }: Options = JSON.parse(process.env.WORKER_OPTIONS ?? '{}');
let { concurrency = 1 } = options;

process.stdin.once('end', () => process.kill(0, 'SIGKILL')).resume(); // with the tests, whose end of it is closed then
(process.stdin as Socket).unref();

const address = (name: string) => `${process.env.GATE}/${name}`;
const passGate = async (name: string, signal?: AbortSignal) =>
  void (await (await fetch(address(name), { signal: signal ?? null })).arrayBuffer());

const handle: Handle = async (job, { progress, signal }) => {
  const given = job.input as Record<string, any>;
  switch (given.do) {
    case 'return':
      return given.value;
    case 'throw':
      throw new RangeError(given.message);
    case 'wait':
      await passGate(given.gate, signal);
      return 'waited';
    case 'wait deafly':
      await passGate(given.gate);
      return 'waited';
    case 'block':
      execFileSync(process.execPath, ['-e', `fetch('${address(given.gate)}')`]);
      return 'blocked';
    case 'report':
      for (const value of given.values) progress(value);
      if (given.gate) await passGate(given.gate, signal);
      return 'reported';
    case 'return NaN':
      return { value: Number.NaN };
    case 'return what JSON has no word for':
      return { value: 1n };
    case 'return much':
      return 'x'.repeat(given.bytes);
    case 'set concurrency':
      concurrency = given.value;
      return concurrency;
    default:
      throw new RangeError(given.do);
  }
};

async function* generate(...[job]: Parameters<Handle>) {
  const given = job.input as Record<string, any>;
  yield* given.chunks;
  if (given.bytes) yield 'x'.repeat(given.bytes);
  if (given.throw) throw new RangeError(given.throw);
}

class RuntimeError extends Error {
  override name = 'RuntimeError';
}

await serve(generator ? generate : handle, {
  ...options,
  concurrency: () => concurrency,
  ...(unfit && {
    fitness: {
      weights() {
        throw new RuntimeError(unfit);
      },
    },
  }),
  log: (event) => console.log(JSON.stringify(event)),
});
