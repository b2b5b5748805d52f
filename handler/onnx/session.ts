/** Runs graphs. */
// biome-ignore lint/style/noRestrictedImports: This module is the only importer of onnxruntime-node.
import { InferenceSession, listSupportedBackends, Tensor } from 'onnxruntime-node';
import type { Graph } from './graph.ts';
import { POLICIES } from './policy.ts';
import { type Policy, product } from './value.ts';

export type Session = Awaited<ReturnType<typeof openSession>>;

export interface SessionOptions {
  /** default: the one that the graph was written for */
  policy?: Policy;
  /** processor threads within an operator; default: onnxruntime's choice */
  threads?: number | undefined;
  /** called after each run with its milliseconds */
  onRun?: ((ms: number) => void) | undefined;
  /** beginning of the path of a file in which onnxruntime says, once the session is closed, which node ran where */
  profile?: string;
}

/** The processor's or the GPU's memory did not suffice. What was being opened or run can be tried again smaller. */
export class OutOfMemory extends Error {
  constructor(cause: unknown) {
    super('memory ran out', { cause });
    this.name = 'OutOfMemory';
  }
}

/** What onnxruntime, the C++ library, CUDA, cuBLAS, cuDNN, Dawn and V8 say when memory runs out. */
const OUT_OF_MEMORY =
  /\[Invalid Buffer|OUT_OF_(?:DEVICE|HOST)_MEMORY|bad_alloc|bad allocation|failed to allocate memory|out of memory|smaller than requested bytes|ALLOC_FAILED|mmap.*(?:cannot allocate|failed)|Cannot allocate memory|Array buffer allocation failed/i;

/** Whether onnxruntime's library for this platform contains WebGPU. */
export const hasWebGpu = () => listSupportedBackends().some(({ name }) => name === 'webgpu');

function rethrow(error: unknown): never {
  throw error instanceof Error && OUT_OF_MEMORY.test(error.message) ? new OutOfMemory(error) : error;
}

/** @throws Error if onnxruntime refuses the graph; OutOfMemory */
export async function openSession(graph: Graph, options: SessionOptions = {}) {
  const { policy = graph.policy, threads, onRun, profile } = options;
  const { extra, ...sessionOptions } = { extra: { session: {} }, ...POLICIES[policy].session };
  const start = performance.now();
  const session = await InferenceSession.create(graph.encode(), {
    ...sessionOptions,
    ...(threads !== undefined && { intraOpNumThreads: threads }),
    ...(profile !== undefined && { enableProfiling: true, profileFilePrefix: profile }),
    interOpNumThreads: 1,
    logSeverityLevel: 3,
    extra: {
      session: { ...extra.session, model_external_initializers_file_folder_path: graph.folder },
      optimization: { disable_specified_optimizers: 'GatherSliceToSplitFusion' }, // it copies all slices before the first is used
    },
  }).catch(rethrow);
  const timings = { open: performance.now() - start, run: 0 };

  /**
   * @param feeds one flat array for each of the graph's inputs
   * @returns the graph's outputs in their order
   * @throws Error that names an input which is missing, unknown or of another length; OutOfMemory
   */
  async function runAll(feeds: Record<string, Float32Array>): Promise<Float32Array[]> {
    const unknown = Object.keys(feeds).find((name) => !graph.inputs.some((input) => input.name === name));
    if (unknown) throw new Error(`${unknown}: the network has no such input`);
    const tensors: Record<string, Tensor> = {};
    for (const input of graph.inputs) {
      const [data, length] = [feeds[input.name], product(input.shape)];
      if (data?.length !== length)
        throw new Error(`input ${input.name} is [${input.shape}], ${length} values, not ${data?.length ?? 'nothing'}`);
      let offset = 0;
      for (const { name, shape } of input.tensors) {
        tensors[name] = new Tensor('float32', data.subarray(offset, offset + product(shape)), shape);
        offset += product(shape);
      }
    }
    const start = performance.now();
    const results = await session.run(tensors).catch(rethrow);
    timings.run = performance.now() - start;
    onRun?.(timings.run);
    return graph.outputs.map(({ shape, tensors }) => {
      const parts = tensors.map(({ name }) => results[name]!.data as Float32Array);
      if (parts.length === 1) return parts[0]!;
      const whole = new Float32Array(product(shape));
      let offset = 0;
      for (const part of parts) {
        whole.set(part, offset);
        offset += part.length;
      }
      return whole;
    });
  }

  return {
    /** milliseconds that opening it and its last run took */
    timings: timings as Readonly<typeof timings>,
    runAll,
    /** The same for the first output, of most graphs the only one. */
    run: async (feeds: Record<string, Float32Array>): Promise<Float32Array> => (await runAll(feeds))[0]!,
    async close(): Promise<void> {
      if (profile !== undefined) session.endProfiling();
      await session.release();
    },
  };
}

/** Opens a session for `use`, and closes it also if `use` fails. @throws as openSession and `use` */
export async function withSession<T>(graph: Graph, use: (session: Session) => Promise<T>): Promise<T> {
  const session = await openSession(graph);
  try {
    return await use(session);
  } finally {
    await session.close();
  }
}
