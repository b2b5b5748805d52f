/** What running a graph takes: the order of its nodes, the most memory of its values, and its number of operations. */
import type { OnnxNode } from '../protobuf.ts';
import { product, sizeOf, type Value } from '../value.ts';
import { placeConstants } from './placement.ts';
import type { Body, Node, Writer } from './writer.ts';

type Values = ReadonlyMap<string, Value>;

/** Operators whose output is their input's memory under another shape. */
const VIEWS = ['Reshape', 'Identity'];

/** The values that a node uses, also within its body. */
const usedBy = ({ inputs, body }: Node): string[] => [...inputs, ...(body?.nodes.flatMap(usedBy) ?? [])];

/**
 * The nodes of a run in their order, and the values that onnxruntime makes once when it opens the graph: all that ONNX's own operators make
 * of constants. What its other operators make of constants runs just before its first use.
 */
export function schedule(writer: Writer): { constants: ReadonlySet<string>; nodes: Node[] } {
  const names = writer.initializers.map(({ name }) => name);
  const constants = new Set(names.filter((name) => !writer.replaceable.has(name)));
  const isFolded = (node: OnnxNode) =>
    !writer.weightsAreInputs && node.domain === '' && node.inputs.every((name) => constants.has(name));
  for (const node of writer.constantNodes) if (isFolded(node)) for (const name of node.outputs) constants.add(name);

  const constantsOf = placeConstants(writer);
  const inOrder = (nodes: readonly Node[], body?: Body): Node[] => {
    const late = constantsOf(body).nodes.filter(({ outputs }) => !constants.has(outputs[0]!));
    const waiting = new Map(late.flatMap((node) => node.outputs.map((name) => [name, node])));
    const order: Node[] = [];
    const runAfterWhatItUses = (node: Node) => {
      for (const name of usedBy(node)) {
        const before = waiting.get(name);
        if (!before) continue;
        for (const output of before.outputs) waiting.delete(output);
        runAfterWhatItUses(before);
      }
      order.push(node.body ? { ...node, body: { ...node.body, nodes: inOrder(node.body.nodes, node.body) } } : node);
    };
    for (const node of nodes) runAfterWhatItUses(node);
    return order;
  };
  return { constants, nodes: inOrder(writer.nodes) };
}

/** The number of elements of the constants that runs use. */
export function countConstants(writer: Writer): number {
  const { constants, nodes } = schedule(writer);
  const used = new Set(nodes.flatMap(usedBy).filter((name) => constants.has(name)));
  return [...used].reduce((sum, name) => sum + product(writer.values.get(name)?.shape ?? []), 0);
}

/**
 * The most bytes that computed values take at one time, without weights and without what an operator needs within. A value lives from the
 * node that makes it to the last that uses it, a result to the end.
 */
export function peakBytes(nodes: readonly Node[], results: readonly string[], values: Values): number {
  const owners = new Map<string, string>(); // whose memory a view shows
  const ownerOf = (name: string) => owners.get(name) ?? name;
  const lastUse = new Map<string, number>();
  for (const [i, node] of nodes.entries()) {
    if (VIEWS.includes(node.op)) owners.set(node.outputs[0]!, ownerOf(node.inputs[0]!));
    for (const name of [...usedBy(node), ...node.outputs]) lastUse.set(ownerOf(name), i);
  }
  for (const name of results) lastUse.set(ownerOf(name), nodes.length);

  const changes = new Float64Array(nodes.length + 2); // of the memory that is taken, before each node
  const take = (bytes: number, from: number, to: number) => {
    changes[from]! += bytes;
    changes[to + 1]! -= bytes;
  };
  for (const [i, { outputs, body }] of nodes.entries()) {
    for (const name of outputs.filter((name) => !owners.has(name)))
      take(sizeOf(values.get(name)!), i, lastUse.get(name)!);
    if (!body) continue;
    // A subgraph's output becomes the node's own. In a scan each is copied into the node's.
    const shared = body.input ? 0 : sizeOf(body.output);
    take(peakBytes(body.nodes, [body.output.name], values) - shared, i, i);
  }
  let [taken, peak] = [0, 0];
  for (const change of changes) {
    taken += change;
    peak = Math.max(peak, taken);
  }
  return peak;
}

/** Multiplications and additions of one run, those of convolutions and matrix products, which are nearly all. */
export function countOperations(nodes: readonly Node[], values: Values): number {
  const shapeOf = (name: string) => values.get(name)!.shape;
  /** products that are summed to an element of the output */
  const terms = ({ op, inputs, attributes }: Node): number => {
    const [first, second] = inputs.slice(0, 2).map(shapeOf) as [number[], number[]];
    if (op === 'Conv') return product(second.slice(1)); // a kernel is [out, in, height, width]
    if (op === 'MatMul' || op === 'Gemm') return first.at(-1)!;
    if (op === 'FusedMatMul') return second.at(attributes.transB ? -1 : attributes.transBatchB ? 0 : -2)!;
    return op === 'MultiHeadAttention' ? 2 * first.at(-2)! : 0; // its scores, and their product with the values
  };
  const counts = nodes.map((node) => {
    const own = /^Conv$|MatMul$|^Gemm$|^MultiHeadAttention$/.test(node.op)
      ? 2 * product(shapeOf(node.outputs[0]!)) * terms(node)
      : 0;
    return own + (node.body ? node.body.times * countOperations(node.body.nodes, values) : 0);
  });
  return counts.reduce((sum, count) => sum + count, 0);
}
