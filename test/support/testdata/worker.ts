/**
 * worker.py with this project's `serve`, for the conformance tests. A job's input says what it does.
 * GATE is the URL where a job waits until the test opens it. WORKER_OPTIONS has the worker's options.
 */
import { execFileSync } from 'node:child_process';
import type { Socket } from 'node:net';
import { type Handler, serve } from '../../../handler/runpod/index.ts';

interface Options {
  concurrency?: number;
  generator?: boolean;
  refreshWorker?: boolean;
  aggregateStream?: boolean;
  unfit?: string;
}

const { generator, unfit, ...options }: Options = JSON.parse(process.env.WORKER_OPTIONS ?? '{}');
let { concurrency = 1 } = options;

process.stdin.once('end', () => process.kill(0, 'SIGKILL')).resume(); // with the tests
(process.stdin as Socket).unref();

const gateUrl = (name: string) => `${process.env.GATE}/${name}`;
const passGate = async (name: string, signal?: AbortSignal) =>
  void (await (await fetch(gateUrl(name), { signal: signal ?? null })).arrayBuffer());

const handle: Handler = async (job, { progress, signal }) => {
  const input = job.input as Record<string, any>;
  switch (input.do) {
    case 'return':
      return input.value;
    case 'throw':
      throw new RangeError(input.message);
    case 'wait':
      await passGate(input.gate, signal);
      return 'waited';
    case 'wait without signal':
      await passGate(input.gate);
      return 'waited';
    case 'block':
      execFileSync(process.execPath, ['-e', `fetch('${gateUrl(input.gate)}')`]);
      return 'blocked';
    case 'report':
      for (const value of input.values) progress(value);
      if (input.gate) await passGate(input.gate, signal);
      return 'reported';
    case 'return NaN':
      return { value: Number.NaN };
    case 'return what JSON cannot express':
      return { value: 1n };
    case 'return much':
      return 'x'.repeat(input.bytes);
    case 'set concurrency':
      concurrency = input.value;
      return concurrency;
    default:
      throw new RangeError(input.do);
  }
};

async function* generate(...[job]: Parameters<Handler>) {
  const input = job.input as Record<string, any>;
  yield* input.chunks;
  if (input.bytes) yield 'x'.repeat(input.bytes);
  if (input.throw) throw new RangeError(input.throw);
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
