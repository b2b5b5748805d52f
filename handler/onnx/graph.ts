/**
 * Writes ONNX graphs of fixed shapes. Each value knows its shape, so a mistake in the wiring shows while the graph is written, and
 * the weights are not copied: they are external data at byte offsets in the official safetensors file.
 */

import {
  type Body,
  elementsOfConstants,
  type Node,
  type OwnOf,
  operationsOf,
  ownedBy,
  type Parts,
  peakOf,
  planOf,
} from './memory-plan.ts';
import {
  type Attribute,
  ELEMENT_TYPE,
  type ElementType,
  encodeModel,
  type OnnxInitializer,
  type OnnxNode,
  type OnnxValue,
} from './protobuf.ts';
import type { SafeTensors } from './safetensors.ts';
import { type Policy, product, sizeOf, type Value } from './value.ts';

export type Graph = ReturnType<typeof createGraph>;

/**
 * With its first dimension left for onnxruntime to find in each run. Where it knows all shapes it plans which value gets the memory of
 * which former one of its shape, and keeps that from the first to the last of them: three times what is needed at one time.
 */
const open = (value: OnnxValue): OnnxValue => ({ ...value, shape: [-1, ...value.shape.slice(1)] });
const sameShape = (a: readonly number[], b: readonly number[]) =>
  a.length === b.length && a.every((size, i) => size === b[i]);

interface OpOptions {
  attributes?: Record<string, Attribute>;
  /** Microsoft's operators, beside ONNX's own */
  domain?: '' | 'com.microsoft';
  type?: ElementType;
}

export interface GraphOptions {
  /** what the formulations suit; default prepacked */
  policy?: Policy;
  /** what is computed in, whatever the weights are stored as; default float32. Inputs and outputs are float32 all the same. */
  precision?: 'float32' | 'float16';
}

/** @param weights the network's file */
export function createGraph(weights: SafeTensors, { policy = 'prepacked', precision = 'float32' }: GraphOptions = {}) {
  let nodes: Node[] = []; // of the graph, or the body, that is being written
  /** What is made of weights and constants alone. It stands first, since onnxruntime then runs each just before what uses it, not all at the start. */
  const early: OnnxNode[] = [];
  /** initializers and what is made of them, by name */
  const fixed = new Set<string>();
  /** constants that stand among the inputs too */
  const replaceable = new Set<string>();
  const values = new Map<string, Value>(); // all there are, by name
  const initializers: OnnxInitializer[] = [];
  const inputs: OnnxValue[] = [];
  const outputs: OnnxValue[] = [];
  const shared = new Map<string, Value>(); // constants and weights, once each
  let count = 0;
  let scope = ''; // whose constants are its own

  /** What was made under this key before, else what `make` makes. */
  function once(key: string, make: () => Value): Value {
    const found = shared.get(scope + key) ?? make();
    shared.set(scope + key, found);
    return found;
  }

  function known(value: Value): Value {
    values.set(value.name, value);
    return value;
  }

  function put(node: OnnxNode): void {
    const isFixed = node.inputs.every((name) => name === '' || fixed.has(name));
    if (isFixed) for (const name of node.outputs) fixed.add(name);
    (isFixed ? early : nodes).push(node);
  }

  function initialize(initializer: OnnxInitializer): void {
    initializers.push(initializer);
    fixed.add(initializer.name);
  }

  /** One operator with one output. An input that is undefined is an optional one left out. */
  function op(
    kind: string,
    operands: readonly (Value | undefined)[],
    shape: readonly number[],
    { attributes = {}, domain = '', type }: OpOptions = {},
  ): Value {
    const name = `${kind}_${count++}`;
    const inputs = operands.map((value) => value?.name ?? '');
    put({ op: kind, domain, name, inputs, outputs: [name], attributes });
    return known({ name, shape, type: type ?? operands.find((value) => value)!.type });
  }

  function split(value: Value, axis: number, sizes: readonly number[]): Value[] {
    const name = `Split_${count++}`;
    const parts = sizes.map((size, i) =>
      known({ name: `${name}_${i}`, type: value.type, shape: value.shape.with(axis, size) }),
    );
    const inputs = [value.name, integers(sizes).name];
    put({ op: 'Split', domain: '', name, inputs, outputs: parts.map((part) => part.name), attributes: { axis } });
    return parts;
  }

  const integers = (values: readonly number[]) =>
    once(`int64 ${values}`, () => {
      const name = `integers_${count++}`;
      const data = new Uint8Array(BigInt64Array.from(values, BigInt).buffer);
      initialize({ name, type: 'int64', shape: [values.length], data });
      return { name, type: 'int64', shape: [values.length] };
    });

  /** @param key tells constants of one shape apart */
  const constant = (key: string, values: Float32Array, shape: readonly number[]) =>
    once(`float32 ${key} ${shape}`, () => {
      const name = `constant_${count++}`;
      initialize({
        name,
        type: 'float32',
        shape,
        data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
      });
      return cast(known({ name, type: 'float32', shape }), precision);
    });

  /**
   * A weight, or the rows [from, to) of its first dimension, perhaps under another shape of as many elements: all of it is arithmetic
   * on offsets.
   * @param stored its shape in the file
   * @throws WeightsError
   */
  function weight(
    tensor: string,
    stored: readonly number[],
    { shape = stored, rows }: { shape?: readonly number[]; rows?: readonly [from: number, to: number] } = {},
  ): Value {
    const [from, to] = rows ?? [0, stored[0]!];
    const used = rows ? [to - from, ...shape.slice(1)] : shape;
    return once(`weight ${tensor} ${rows ?? ''} ${used}`, () => {
      const { type, offset, length } = weights.get(tensor, stored);
      const rowBytes = length / stored[0]!;
      const name = `${scope}${tensor}${rows ? `[${from}:${to}]` : ''}|${used.join('x')}`;
      const external = { location: weights.name, offset: offset + from * rowBytes, length: (to - from) * rowBytes };
      const value = { name, type, shape: used };
      if (sizeOf(value) !== external.length) throw new Error(`${tensor}: [${stored}] can’t be seen as [${used}]`);
      initialize({ ...value, external });
      return cast(known(value), precision);
    });
  }

  /**
   * Ones in a row of any length, made when they are used: as a constant they would be held for good. onnxruntime takes for one what is
   * made of constants, but not what a caller may replace.
   */
  const ones = (length: number) =>
    once(`ones ${length}`, () => op('Expand', [replaceableOne(), integers([length])], [length]));

  function replaceableOne(): Value {
    const around = scope;
    scope = ''; // only the graph itself has inputs that a caller may replace
    const one = constant('replaceable one', Float32Array.of(1), [1]);
    scope = around;
    replaceable.add(one.name);
    return one;
  }

  /** What `make` makes, as a body. Constants of the same scope are its own: onnxruntime makes nothing of those around it. */
  function bodyOf(make: () => Value, itsScope: string): Pick<Body, 'nodes' | 'output'> {
    const around = { nodes, scope };
    nodes = [];
    scope = itsScope;
    const output = make();
    const body = { nodes, output };
    ({ nodes, scope } = around);
    return body;
  }

  /**
   * What `make` makes, as a graph of its own where weights are mapped: onnxruntime opens a graph in the square of its size. It is a
   * condition's first branch, whose condition a caller could make false; so onnxruntime can't know that it never is, and leaves it as it is.
   */
  function section(make: () => Value): Value {
    if (policy !== 'mapped') return make();
    const { nodes: within, output } = bodyOf(make, scope);
    const name = `section_${count++}`;
    const ones = { name: `${name}_otherwise`, inputs: [replaceableOne().name, integers(output.shape).name] };
    const otherwise = { op: 'Expand', domain: '', ...ones, outputs: [ones.name], attributes: {} };
    const inputs = [once('always', () => cast(replaceableOne(), 'bool')).name];
    const body = { nodes: within, output, times: 1, otherwise };
    nodes.push({ op: 'If', domain: '', name, inputs, outputs: [name], attributes: {}, body });
    return known({ ...output, name });
  }

  /**
   * A layer on one after the other of what the first dimension counts, [N, …] → [N, …]: it is given each as [1, …]. So its values take the
   * memory of one, and onnxruntime opens a single layer.
   */
  function each(x: Value, layer: (one: Value) => Value): Value {
    const [N, ...rest] = x.shape as [number, ...number[]];
    if (N === 1) return layer(x);
    if (policy === 'cuda') {
      // A loop would be led by the processor. (Neither was tried on a GPU.)
      const results = Array.from({ length: N }, (_, n) => layer(slice(x, 0, n, n + 1)));
      return concat(results, 0);
    }
    const all = reshape(x, [N, 1, ...rest]);
    const name = `each_${count++}`;
    const input = known({ name: `${name}_one`, type: x.type, shape: [1, ...rest] });
    const body = { ...bodyOf(() => layer(input), policy === 'mapped' ? scope : `${name} `), input, times: N };
    const attributes = { num_scan_inputs: 1 };
    nodes.push({ op: 'Scan', domain: '', name, inputs: [all.name], outputs: [name], attributes, body });
    const shape = [N, ...body.output.shape];
    return reshape(known({ name, type: body.output.type, shape }), [N, ...shape.slice(2)]);
  }

  function concat(values: readonly Value[], axis: number): Value {
    const size = values.reduce((sum, value) => sum + value.shape[axis]!, 0);
    return op('Concat', values, values[0]!.shape.with(axis, size), { attributes: { axis } });
  }

  function cast(value: Value, type: ElementType): Value {
    return value.type === type
      ? value
      : op('Cast', [value], value.shape, { attributes: { to: ELEMENT_TYPE[type] }, type });
  }

  function reshape(value: Value, shape: readonly number[]): Value {
    if (sameShape(value.shape, shape)) return value;
    if (product(value.shape) !== product(shape)) throw new Error(`[${value.shape}] can’t be reshaped to [${shape}]`);
    return op('Reshape', [value, integers([-1, ...shape.slice(1)])], shape);
  }

  function transpose(value: Value, order: readonly number[]): Value {
    return op(
      'Transpose',
      [value],
      order.map((axis) => value.shape[axis]!),
      { attributes: { perm: order } },
    );
  }

  /** Elementwise, each dimension of one operand 1 or as the other's. */
  function elementwise(kind: 'Add' | 'Sub' | 'Mul', a: Value, b: Value): Value {
    const rank = Math.max(a.shape.length, b.shape.length);
    const padded = (shape: readonly number[]) => [...Array<number>(rank - shape.length).fill(1), ...shape];
    const [left, right] = [padded(a.shape), padded(b.shape)];
    const shape = left.map((size, i) => {
      const other = right[i]!;
      if (size !== other && size !== 1 && other !== 1) throw new Error(`${kind} of [${a.shape}] and [${b.shape}]`);
      return Math.max(size, other);
    });
    return op(kind, [a, b], shape);
  }

  /** The part [from, to) of one axis. */
  function slice(value: Value, axis: number, from: number, to: number): Value {
    const operands = [value, ...[[from], [to], [axis]].map(integers)];
    return op('Slice', operands, value.shape.with(axis, to - from));
  }

  const parts = (): Parts => ({ policy, nodes, early, initializers, replaceable, values });

  /** All nodes, bodies as onnxruntime wants them. */
  function written(all: readonly Node[], ownOf: OwnOf, body?: Body): OnnxNode[] {
    const nodes = all.map(({ body, ...node }): OnnxNode => {
      if (!body) return node;
      const { input, output, otherwise } = body;
      const graph = {
        nodes: written(body.nodes, ownOf, body),
        initializers: ownOf(body).constants,
        inputs: input ? [open(input)] : [],
        outputs: [open(output)],
      };
      if (!otherwise) return { ...node, attributes: { ...node.attributes, body: { graph } } };
      const other = { nodes: [otherwise], outputs: [open({ ...output, name: otherwise.name })] };
      return { ...node, attributes: { then_branch: { graph }, else_branch: { graph: other } } };
    });
    return [...ownOf(body).made, ...nodes];
  }

  return {
    op,
    once,
    split,
    slice,
    weight,
    constant,
    ones,
    integers,
    reshape,
    transpose,
    section,
    each,
    policy,

    input(name: string, shape: readonly number[]): Value {
      const value = { name, type: 'float32' as const, shape };
      inputs.push(value);
      return cast(known(value), precision);
    },
    output(name: string, value: Value): void {
      const result = op('Identity', [cast(value, 'float32')], value.shape);
      nodes.at(-1)!.outputs = [name];
      known({ ...result, name });
      outputs.push({ name, type: 'float32', shape: value.shape });
    },

    add: (a: Value, b: Value) => elementwise('Add', a, b),
    sub: (a: Value, b: Value) => elementwise('Sub', a, b),
    mul: (a: Value, b: Value) => elementwise('Mul', a, b),
    /** An operator that changes values only. */
    map: (kind: string, value: Value, options?: OpOptions) => op(kind, [value], value.shape, options),
    concat,

    /** What it takes and gives, for whoever runs it. */
    inputs,
    outputs,
    /** where the weights lie */
    folder: weights.folder,
    /** Bytes of the weights, and of what is made of them once, that runs use: at the precision that is computed in. */
    weightBytes: () => elementsOfConstants(parts()) * (precision === 'float16' ? 2 : 4),
    /** See peakOf. */
    peakBytes: () => peakOf(planOf(parts()).run, new Set(outputs.map(({ name }) => name)), values),
    /** See operationsOf. */
    operations: () => operationsOf(planOf(parts()).run, values),
    encode(): Uint8Array {
      // Mapped weights are listed as inputs too, which ONNX lets callers replace: onnxruntime then folds nothing that is made of them, so
      // that half-precision weights stay in the file and are cast anew in each run.
      const ownOf = ownedBy(parts());
      const also = initializers.filter(
        (initializer) => replaceable.has(initializer.name) || (policy === 'mapped' && 'external' in initializer),
      );
      return encodeModel({
        nodes: written(nodes, ownOf),
        initializers: ownOf().constants,
        inputs: [...inputs.map(open), ...also],
        outputs: outputs.map(open),
      });
    },
  };
}
