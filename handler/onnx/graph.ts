/**
 * Writes ONNX graphs of fixed shapes. Each value knows its shape, so a mistake in the wiring shows while the graph is written, and
 * the weights are not copied: they are external data at byte offsets in the official safetensors file.
 */
import {
  type Attribute,
  ELEMENT_BYTES,
  ELEMENT_TYPE,
  type ElementType,
  encodeModel,
  type OnnxInitializer,
  type OnnxNode,
  type OnnxValue,
} from './protobuf.ts';
import type { SafeTensors } from './safetensors.ts';

export interface Value {
  readonly name: string;
  readonly type: ElementType;
  readonly shape: readonly number[];
}

export type Graph = ReturnType<typeof createGraph>;

/** ONNX's number for the type of a condition */
const BOOLEAN = 9;

const product = (shape: readonly number[]) => shape.reduce((total, size) => total * size, 1);
const sizeOf = ({ type, shape }: Value) => product(shape) * ELEMENT_BYTES[type];
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

/**
 * Where the weights are while a network runs. prepacked: in memory, in the layouts that run fastest, with what is made of them once.
 * mapped: they stay in their files and come in page by page. cuda: on the GPU.
 */
export type Policy = 'prepacked' | 'mapped' | 'cuda';

/** Nodes from one to before another of a graph, of whose values only the last is used after them. */
interface Section {
  from: number;
  to: number;
  result: Value;
}

/** Operators whose output is their input's memory under another shape. */
const VIEWS = ['Reshape', 'Identity'];

/** @param weights the network's file */
export function createGraph(weights: SafeTensors, { policy = 'prepacked', precision = 'float32' }: GraphOptions = {}) {
  const nodes: OnnxNode[] = [];
  const sections: Section[] = [];
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

  /** What was made under this key before, else what `make` makes. */
  function once(key: string, make: () => Value): Value {
    const found = shared.get(key) ?? make();
    shared.set(key, found);
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
      const name = `${tensor}${rows ? `[${from}:${to}]` : ''}|${used.join('x')}`;
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
    const one = constant('replaceable one', Float32Array.of(1), [1]);
    replaceable.add(one.name);
    return one;
  }

  /**
   * What `make` makes, as a graph of its own where weights are mapped: onnxruntime opens a graph in the square of its size. Of the values
   * made within only the last is used outside.
   */
  function section(make: () => Value): Value {
    const from = nodes.length;
    const result = make();
    if (policy === 'mapped') sections.push({ from, to: nodes.length, result });
    return result;
  }

  /**
   * A section as one node, a condition's first branch. A caller could make it false, so onnxruntime can't know that it never is, and leaves
   * the branches as they are.
   */
  function asNode({ result }: Section, within: readonly OnnxNode[]): OnnxNode {
    const { name, shape } = result;
    const inner = `${name} within`; // a name stands for one value only, inside and out
    const renamed = (names: string[]) => names.map((other) => (other === name ? inner : other));
    const nodes = within.map((node) => ({ ...node, inputs: renamed(node.inputs), outputs: renamed(node.outputs) }));
    const outputs = [open({ ...result, name: inner })];
    const ones = {
      op: 'Expand',
      domain: '',
      name: `${name} otherwise`,
      outputs: [`${name} otherwise`],
      attributes: {},
    };
    const otherwise = { ...ones, inputs: [replaceableOne().name, integers(shape).name] };
    return {
      op: 'If',
      domain: '',
      name: `section ${name}`,
      inputs: ['always'],
      outputs: [name],
      attributes: {
        then_branch: { graph: { nodes, outputs } },
        else_branch: { graph: { nodes: [otherwise], outputs: [open({ ...result, name: otherwise.name })] } },
      },
    };
  }

  const bySection = () =>
    new Map(sections.flatMap((part) => nodes.slice(part.from, part.to).map((node) => [node, part] as const)));

  /** All nodes in an order to run in, those of each section as one. What is made of weights for one section alone is made there. */
  function sectioned(): OnnxNode[] {
    const users = new Map<string, Set<Section | undefined>>(); // by value
    const use = (name: string, by: Iterable<Section | undefined>) =>
      users.set(name, new Set([...(users.get(name) ?? []), ...by]));
    const sectionOf = bySection();
    for (const node of nodes) for (const name of node.inputs) use(name, [sectionOf.get(node)]);
    const own = new Map<Section | undefined, OnnxNode[]>();
    for (const node of early.toReversed()) {
      const by = new Set(node.outputs.flatMap((name) => [...(users.get(name) ?? [])]));
      const only = by.size === 1 ? [...by][0] : undefined;
      for (const name of node.inputs) use(name, by);
      own.set(only, [node, ...(own.get(only) ?? [])]);
    }
    const all = [...(own.get(undefined) ?? [])];
    if (sections.length > 0) {
      const attributes = { to: BOOLEAN };
      all.push({
        op: 'Cast',
        domain: '',
        name: 'always',
        inputs: [replaceableOne().name],
        outputs: ['always'],
        attributes,
      });
    }
    let next = 0;
    for (const part of sections) {
      const within = [...(own.get(part) ?? []), ...nodes.slice(part.from, part.to)];
      all.push(...nodes.slice(next, part.from), asNode(part, within));
      next = part.to;
    }
    return [...all, ...nodes.slice(next)];
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

  /** What runs, in its order, and what onnxruntime makes once: all that is made of constants by ONNX's own operators. */
  function plan() {
    const constants = new Set(initializers.map(({ name }) => name).filter((name) => !replaceable.has(name)));
    const made = new Map<string, OnnxNode>(); // of constants in each run, by output
    for (const node of early) {
      const isConstant = policy !== 'mapped' && node.domain === '' && node.inputs.every((name) => constants.has(name));
      for (const name of node.outputs) isConstant ? constants.add(name) : made.set(name, node);
    }
    const run: OnnxNode[] = [];
    const runAfterWhatItUses = (node: OnnxNode) => {
      for (const name of node.inputs) {
        const before = made.get(name);
        if (!before) continue;
        for (const output of before.outputs) made.delete(output);
        runAfterWhatItUses(before);
      }
      run.push(node);
    };
    for (const node of nodes) runAfterWhatItUses(node);
    return { constants, run };
  }

  /** Bytes of the weights, and of what is made of them once, that runs use: at the precision that is computed in. */
  function weightBytes(): number {
    const { constants, run } = plan();
    const used = new Set(run.flatMap(({ inputs }) => inputs).filter((name) => constants.has(name)));
    const elements = [...used].reduce((sum, name) => sum + product(values.get(name)?.shape ?? []), 0);
    return elements * (precision === 'float16' ? 2 : 4);
  }

  /**
   * The most memory that computed values take at one time, in bytes, without the weights and without what an operator needs within: a
   * value lives from the operator that makes it to the last that uses it, or to the end of that one's section.
   */
  function peakBytes(): number {
    const { run } = plan();
    const owner = new Map<string, string>(); // whose memory a view shows
    const memoryOf = (name: string) => owner.get(name) ?? name;
    const lastUse = new Map<string, number>();
    const sectionOf = bySection();
    const ends = new Map(run.map((node, i) => [sectionOf.get(node), i]));
    const madeIn = new Map(run.flatMap((node) => node.outputs.map((name) => [name, sectionOf.get(node)])));
    for (const [i, node] of run.entries()) {
      if (VIEWS.includes(node.op)) owner.set(node.outputs[0]!, memoryOf(node.inputs[0]!));
      const part = sectionOf.get(node);
      for (const name of [...node.inputs, ...node.outputs]) {
        const isFromOutside = part && madeIn.get(memoryOf(name)) !== part;
        lastUse.set(memoryOf(name), isFromOutside ? ends.get(part)! : i);
      }
    }
    for (const { name } of outputs) lastUse.set(memoryOf(name), run.length);

    const changes = new Float64Array(run.length + 2);
    for (const [i, node] of run.entries()) {
      for (const name of node.outputs.filter((name) => !owner.has(name))) {
        const size = sizeOf(values.get(name)!);
        changes[i]! += size;
        changes[lastUse.get(name)! + 1]! -= size;
      }
    }
    let [live, peak] = [0, 0];
    for (const change of changes) {
      live += change;
      peak = Math.max(peak, live);
    }
    return peak;
  }

  /** Multiplications and additions of one run, those of matrix products and convolutions, which are nearly all. */
  function operations(): number {
    const shapeOf = (name: string) => values.get(name)!.shape;
    const perElement = (node: OnnxNode): number => {
      if (node.op === 'MatMul') return shapeOf(node.inputs[0]!).at(-1)!;
      const inner = shapeOf(node.inputs[node.op === 'MultiHeadAttention' ? 0 : 1]!);
      if (node.op === 'Conv') return product(inner.slice(1)); // the kernel of one output: [out, in, height, width]
      const { transB, transBatchB } = node.attributes;
      if (node.op === 'FusedMatMul') return inner.at(transB ? -1 : transBatchB ? 0 : -2)!;
      return node.op === 'MultiHeadAttention' ? 2 * inner.at(-2)! : 0; // scores and their product with the values
    };
    const kinds = ['Conv', 'MatMul', 'FusedMatMul', 'MultiHeadAttention'];
    const multiplies = plan().run.filter(({ op }) => kinds.includes(op));
    return multiplies.reduce((sum, node) => sum + 2 * product(shapeOf(node.outputs[0]!)) * perElement(node), 0);
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
    concat(values: readonly Value[], axis: number): Value {
      const size = values.reduce((sum, value) => sum + value.shape[axis]!, 0);
      return op('Concat', values, values[0]!.shape.with(axis, size), { attributes: { axis } });
    },

    /** What it takes and gives, for whoever runs it. */
    inputs,
    outputs,
    /** where the weights lie */
    folder: weights.folder,
    weightBytes,
    peakBytes,
    operations,
    encode(): Uint8Array {
      // Mapped weights are listed as inputs too, which ONNX lets callers replace: onnxruntime then folds nothing that is made of them, so
      // that half-precision weights stay in the file and are cast anew in each run.
      const nodes = sectioned();
      const also = initializers.filter(
        (initializer) => replaceable.has(initializer.name) || (policy === 'mapped' && 'external' in initializer),
      );
      return encodeModel({
        nodes,
        initializers,
        inputs: [...inputs.map(open), ...also],
        outputs: outputs.map(open),
      });
    },
  };
}
