import type { OnnxInitializer, OnnxNode } from '../protobuf.ts';
import type { Body, Node, Writer } from './writer.ts';

interface Constants {
  nodes: OnnxNode[];
  initializers: OnnxInitializer[];
}

/** The constants of a body or, without one, of the graph itself. */
export type Placement = (body?: Body) => Readonly<Constants>;

/**
 * Places each constant, and each node that is made of constants alone, in the only body that uses it, else in the graph itself. Constants
 * that are inputs stay in the graph. The nodes come first in theirs: onnxruntime then runs each just before its first use.
 */
export function placeConstants(writer: Writer): Placement {
  const users = new Map<string, Set<Body | undefined>>(); // by value
  const usersOf = (name: string) => users.get(name) ?? users.set(name, new Set()).get(name)!;
  const addUses = (nodes: readonly Node[], user: Body | undefined) => {
    for (const { inputs, body } of nodes) {
      for (const name of inputs) usersOf(name).add(user);
      if (body) addUses(body.nodes, body);
    }
  };
  addUses(writer.nodes, undefined);

  const placed = new Map<Body | undefined, Constants>();
  const at = (body?: Body) => placed.get(body) ?? placed.set(body, { nodes: [], initializers: [] }).get(body)!;
  const onlyUser = (names: readonly string[]) => {
    const all = new Set(names.flatMap((name) => [...usersOf(name)]));
    return all.size === 1 ? [...all][0] : undefined;
  };
  for (const node of writer.constantNodes.toReversed()) {
    for (const name of node.inputs)
      for (const output of node.outputs) for (const user of usersOf(output)) usersOf(name).add(user);
    at(onlyUser(node.outputs)).nodes.unshift(node);
  }
  for (const one of writer.initializers) {
    const stays = writer.weightsAreInputs || writer.replaceable.has(one.name);
    at(stays ? undefined : onlyUser([one.name])).initializers.push(one);
  }
  return at;
}
