/** Running graphs. The one importer of onnxruntime. */
import { InferenceSession, Tensor } from 'onnxruntime-node';
import type { Graph } from './graph.ts';

export interface Session {
  /**
   * @param feeds one flat array for each of the graph's inputs
   * @returns the graph's only output
   * @throws Error that names an input which is missing, unknown or of another length
   */
  run(feeds: Record<string, Float32Array>): Promise<Float32Array>;
  close(): Promise<void>;
}

export interface SessionOptions {
  /** processor threads within an operator; default: onnxruntime's choice */
  threads?: number;
  /** called after each run with what it took, in milliseconds */
  onRun?: (ms: number) => void;
}

/** @throws Error if onnxruntime refuses the graph or can't get the memory */
export async function openSession(graph: Graph, { threads, onRun }: SessionOptions = {}): Promise<Session> {
  const session = await InferenceSession.create(graph.encode(), {
    ...(threads !== undefined && { intraOpNumThreads: threads }),
    interOpNumThreads: 1,
    graphOptimizationLevel: 'all',
    logSeverityLevel: 3,
    extra: { session: { model_external_initializers_file_folder_path: graph.folder } },
  });
  const output = graph.outputs[0]!.name;

  return {
    async run(feeds) {
      const unknown = Object.keys(feeds).find((name) => !graph.inputs.some((input) => input.name === name));
      if (unknown) throw new Error(`${unknown}: the network has no such input`);
      const tensors: Record<string, Tensor> = {};
      for (const { name, shape } of graph.inputs) {
        const data = feeds[name];
        const length = shape.reduce((product, size) => product * size, 1);
        if (data?.length !== length)
          throw new Error(`input ${name} is [${shape}], ${length} values, not ${data?.length ?? 'nothing'}`);
        tensors[name] = new Tensor('float32', data, shape);
      }
      const start = performance.now();
      const results = await session.run(tensors);
      onRun?.(performance.now() - start);
      return results[output]!.data as Float32Array;
    },
    close: () => session.release(),
  };
}
