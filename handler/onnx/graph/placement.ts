import type { OnnxInitializer, OnnxNode } from '../protobuf.ts';
import type { Body, Node, Writer } from './writer.ts';

interface Constants {
  nodes: OnnxNode[];
  initializers: OnnxInitializer[];
}

/** The constants that belong into a body, or, without one, into the graph itself. */
export type Placement = (body?: Body) => Readonly<Constants>;

/**
 * Places what is made of constants, and the constants themselves where weights are no inputs, in the only body that uses it. Elsewhere, and
 * first in the graph: onnxruntime then runs each node just before its first use, and not all at the start.
 */
export function placeConstants({
  weightsAreInputs,
  nodes,
  constantNodes,
  initializers,
  replaceable,
}: Writer): Placement {
  const users = new Map<string, Set<Body | undefined>>(); // by value
  const usersOf = (name: string) => users.get(name) ?? users.set(name, new Set()).get(name)!;
  const addUses = (nodes: readonly Node[], user: Body | undefined) => {
    for (const { inputs, body } of nodes) {
      for (const name of inputs) usersOf(name).add(user);
      if (body) addUses(body.nodes, body);
    }
  };
  addUses(nodes, undefined);

  const placed = new Map<Body | undefined, Constants>();
  const at = (body?: Body) => placed.get(body) ?? placed.set(body, { nodes: [], initializers: [] }).get(body)!;
  const onlyUser = (names: readonly string[]) => {
    const all = new Set(names.flatMap((name) => [...usersOf(name)]));
    return all.size === 1 ? [...all][0] : undefined;
  };
  for (const node of constantNodes.toReversed()) {
    for (const name of node.inputs)
      for (const output of node.outputs) for (const user of usersOf(output)) usersOf(name).add(user);
    at(onlyUser(node.outputs)).nodes.unshift(node);
  }
  for (const one of initializers) {
    const stays = weightsAreInputs || replaceable.has(one.name);
    at(stays ? undefined : onlyUser([one.name])).initializers.push(one);
  }
  return at;
}
