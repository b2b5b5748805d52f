import type { Value } from '../value.ts';
import type { Operators } from './operators.ts';
import type { Writer } from './writer.ts';

/** Graphs within a graph. onnxruntime opens a graph in the square of its number of values, so several small ones open sooner. */
export function createBodies(writer: Writer, { integers, cast, reshape }: Operators, replaceableOne: () => Value) {
  /**
   * What `make` makes, as a graph of its own: the first branch of a condition that is always true. A caller could make the condition false,
   * so onnxruntime does not resolve it when it opens the graph.
   */
  function subgraph(make: () => Value): Value {
    const { nodes, output } = writer.body(writer.scope, make);
    const name = writer.newName('section');
    const other = `${name}_otherwise`;
    const otherInputs = [replaceableOne().name, integers(output.shape).name];
    const otherwise = { op: 'Expand', domain: '', name: other, inputs: otherInputs, outputs: [other], attributes: {} };
    const inputs = [writer.once('always', () => cast(replaceableOne(), 'bool')).name];
    const body = { nodes, output, times: 1, otherwise };
    writer.nodes.push({ op: 'If', domain: '', name, inputs, outputs: [name], attributes: {}, body });
    return writer.known({ ...output, name });
  }

  /**
   * A layer on one item of the first dimension after the other: [N, …] → [N, …]. The layer is given [1, …]. Its values take the memory of
   * one item, and onnxruntime opens one layer.
   * @param ownConstants whether the constants that it uses are its own: of constants around it onnxruntime folds and packs nothing
   */
  function scan(x: Value, layer: (item: Value) => Value, { ownConstants }: { ownConstants: boolean }): Value {
    const [N, ...rest] = x.shape as [number, ...number[]];
    const items = reshape(x, [N, 1, ...rest]);
    const name = writer.newName('each');
    const input = writer.known({ name: `${name}_one`, type: x.type, shape: [1, ...rest] });
    const { nodes, output } = writer.body(ownConstants ? `${name} ` : writer.scope, () => layer(input));
    const body = { nodes, output, input, times: N };
    const attributes = { num_scan_inputs: 1 };
    writer.nodes.push({ op: 'Scan', domain: '', name, inputs: [items.name], outputs: [name], attributes, body });
    const results = writer.known({ name, type: output.type, shape: [N, ...output.shape] });
    return reshape(results, [N, ...output.shape.slice(1)]);
  }

  return { subgraph, scan };
}
