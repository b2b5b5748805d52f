/** What can be told of a graph that is written: what belongs where, what runs, how much memory and how many operations that takes. */

import type { OnnxInitializer, OnnxNode } from './protobuf.ts';
import { type Policy, product, sizeOf, type Value } from './value.ts';

/** A graph within a node. It sees the values around it; of its own only the output is seen outside. */
export interface Body {
  nodes: readonly Node[];
  /** a part of what the node is given, where it runs for each */
  input?: Value;
  output: Value;
  /** how often it runs */
  times: number;
  /** what would stand in its place if its condition were false */
  otherwise?: OnnxNode;
}
export type Node = OnnxNode & { body?: Body };

/** The values that a node takes, also those that it takes within, or makes there. */
const used = ({ inputs, body }: Node): string[] => [...inputs, ...(body?.nodes.flatMap(used) ?? [])];

/** Operators whose output is their input's memory under another shape. */
const VIEWS = ['Reshape', 'Identity'];

type Values = ReadonlyMap<string, Value>;

export interface Parts {
  policy: Policy;
  nodes: readonly Node[];
  /** what is made of weights and constants alone */
  early: readonly OnnxNode[];
  initializers: readonly OnnxInitializer[];
  /** constants that a caller may replace */
  replaceable: ReadonlySet<string>;
  /** all there are, by name */
  values: Values;
}

/** What belongs into a body, or, without one, into the graph around all. */
export type OwnOf = (body?: Body) => { made: readonly OnnxNode[]; constants: readonly OnnxInitializer[] };

/** What is made of constants, and the constants themselves where weights are not mapped, by the only body that uses it. */
export function ownedBy({ policy, nodes, early, initializers, replaceable }: Parts): OwnOf {
  const users = new Map<string, Set<Body | undefined>>(); // by value
  const use = (name: string, by: Iterable<Body | undefined>) =>
    users.set(name, new Set([...(users.get(name) ?? []), ...by]));
  const useAll = (all: readonly Node[], by: Body | undefined) => {
    for (const { inputs, body } of all) {
      for (const name of inputs) use(name, [by]);
      if (body) useAll(body.nodes, body);
    }
  };
  useAll(nodes, undefined);
  const onlyUser = (names: readonly string[]) => {
    const by = new Set(names.flatMap((name) => [...(users.get(name) ?? [])]));
    return by.size === 1 ? [...by][0] : undefined;
  };
  const made = new Map<Body | undefined, OnnxNode[]>();
  for (const node of early.toReversed()) {
    const by = onlyUser(node.outputs);
    for (const name of node.inputs) for (const output of node.outputs) use(name, users.get(output) ?? []);
    made.set(by, [node, ...(made.get(by) ?? [])]);
  }
  const stays = ({ name }: OnnxInitializer) => policy === 'mapped' || replaceable.has(name);
  const constants = new Map<Body | undefined, OnnxInitializer[]>();
  for (const one of initializers) {
    const by = stays(one) ? undefined : onlyUser([one.name]);
    const its = constants.get(by) ?? [];
    its.push(one);
    constants.set(by, its);
  }
  return (body) => ({ made: made.get(body) ?? [], constants: constants.get(body) ?? [] });
}

/** What runs, in its order, and what onnxruntime makes once: all that is made of constants by ONNX's own operators. */
export function planOf(parts: Parts): { constants: Set<string>; run: Node[] } {
  const { policy, nodes, early, initializers, replaceable } = parts;
  const constants = new Set(initializers.map(({ name }) => name).filter((name) => !replaceable.has(name)));
  const isMadeOnce = (node: OnnxNode) =>
    policy !== 'mapped' && node.domain === '' && node.inputs.every((name) => constants.has(name));
  for (const node of early) if (isMadeOnce(node)) for (const name of node.outputs) constants.add(name);
  const ownOf = ownedBy(parts);
  const ordered = (nodes: readonly Node[], body?: Body): Node[] => {
    const late = ownOf(body).made.filter(({ outputs }) => !constants.has(outputs[0]!));
    const made = new Map(late.flatMap((node) => node.outputs.map((name) => [name, node])));
    const run: Node[] = [];
    const runAfterWhatItUses = (node: Node) => {
      for (const name of used(node)) {
        const before = made.get(name);
        if (!before) continue;
        for (const output of before.outputs) made.delete(output);
        runAfterWhatItUses(before);
      }
      run.push(node.body ? { ...node, body: { ...node.body, nodes: ordered(node.body.nodes, node.body) } } : node);
    };
    for (const node of nodes) runAfterWhatItUses(node);
    return run;
  };
  return { constants, run: ordered(nodes) };
}

/** Of the weights, and of what is made of them once, those that runs use. */
export function elementsOfConstants(parts: Parts): number {
  const { constants, run } = planOf(parts);
  const names = new Set(run.flatMap(used).filter((name) => constants.has(name)));
  return [...names].reduce((sum, name) => sum + product(parts.values.get(name)?.shape ?? []), 0);
}

/**
 * The most memory that computed values take at one time, in bytes, without the weights and without what an operator needs within: a
 * value lives from the operator that makes it to the last that uses it, or to the end if it is a result.
 */
export function peakOf(run: readonly Node[], results: ReadonlySet<string>, values: Values): number {
  const owner = new Map<string, string>(); // whose memory a view shows
  const memoryOf = (name: string) => owner.get(name) ?? name;
  const lastUse = new Map<string, number>();
  for (const [i, node] of run.entries()) {
    if (VIEWS.includes(node.op)) owner.set(node.outputs[0]!, memoryOf(node.inputs[0]!));
    for (const name of [...used(node), ...node.outputs]) lastUse.set(memoryOf(name), i);
  }
  for (const name of results) lastUse.set(memoryOf(name), run.length);

  const changes = new Float64Array(run.length + 2);
  for (const [i, { outputs, body }] of run.entries()) {
    for (const name of outputs.filter((name) => !owner.has(name))) {
      const size = sizeOf(values.get(name)!);
      changes[i]! += size;
      changes[lastUse.get(name)! + 1]! -= size;
    }
    if (!body) continue;
    // What a section makes becomes the node's own output; of each of several it is copied there.
    const within = peakOf(body.nodes, new Set([body.output.name]), values) - (body.input ? 0 : sizeOf(body.output));
    changes[i]! += within;
    changes[i + 1]! -= within;
  }
  let [live, peak] = [0, 0];
  for (const change of changes) {
    live += change;
    peak = Math.max(peak, live);
  }
  return peak;
}

/** Multiplications and additions of one run, those of matrix products and convolutions, which are nearly all. */
export function operationsOf(run: readonly Node[], values: Values): number {
  const shapeOf = (name: string) => values.get(name)!.shape;
  const perElement = (node: OnnxNode): number => {
    if (node.op === 'MatMul') return shapeOf(node.inputs[0]!).at(-1)!;
    const inner = shapeOf(node.inputs[node.op === 'MultiHeadAttention' ? 0 : 1]!);
    if (node.op === 'Conv') return product(inner.slice(1)); // the kernel of one output: [out, in, height, width]
    const { transB, transBatchB } = node.attributes;
    if (node.op === 'FusedMatMul') return inner.at(transB ? -1 : transBatchB ? 0 : -2)!;
    return 2 * inner.at(-2)!; // MultiHeadAttention's scores and their product with the values
  };
  const kinds = ['Conv', 'MatMul', 'FusedMatMul', 'MultiHeadAttention'];
  const own = run
    .filter(({ op }) => kinds.includes(op))
    .reduce((sum, node) => sum + 2 * product(shapeOf(node.outputs[0]!)) * perElement(node), 0);
  return run.reduce((sum, { body }) => sum + (body ? body.times * operationsOf(body.nodes, values) : 0), own);
}
