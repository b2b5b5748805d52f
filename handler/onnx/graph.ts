/**
 * Writes ONNX graphs of fixed shapes. Each value knows its shape, so a mistake in the wiring shows while the graph is written, and
 * the weights are not copied: they are external data at byte offsets in the official safetensors file.
 */
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

export interface Value {
  readonly name: string;
  readonly type: ElementType;
  readonly shape: readonly number[];
}

export type Graph = ReturnType<typeof createGraph>;

const product = (shape: readonly number[]) => shape.reduce((total, size) => total * size, 1);
const sameShape = (a: readonly number[], b: readonly number[]) =>
  a.length === b.length && a.every((size, i) => size === b[i]);

interface OpOptions {
  attributes?: Record<string, Attribute>;
  /** Microsoft's operators, beside ONNX's own */
  domain?: '' | 'com.microsoft';
  type?: ElementType;
}

/** @param weights the network's file; half-precision weights are computed with in float32 */
export function createGraph(weights: SafeTensors) {
  const nodes: OnnxNode[] = [];
  const initializers: OnnxInitializer[] = [];
  const inputs: OnnxValue[] = [];
  const outputs: OnnxValue[] = [];
  const shared = new Map<string, Value>(); // constants and weights, once each
  let count = 0;

  function once(key: string, make: () => Value): Value {
    const found = shared.get(key) ?? make();
    shared.set(key, found);
    return found;
  }

  /** One operator with one output. An input that is undefined is an optional one left out. */
  function op(
    kind: string,
    operands: readonly (Value | undefined)[],
    shape: readonly number[],
    { attributes = {}, domain = '', type }: OpOptions = {},
  ): Value {
    const name = `${kind}_${count++}`;
    nodes.push({
      op: kind,
      domain,
      name,
      inputs: operands.map((value) => value?.name ?? ''),
      outputs: [name],
      attributes,
    });
    return { name, shape, type: type ?? operands.find((value) => value)!.type };
  }

  function split(value: Value, axis: number, sizes: readonly number[]): Value[] {
    const name = `Split_${count++}`;
    const parts = sizes.map((size, i) => ({
      name: `${name}_${i}`,
      type: value.type,
      shape: value.shape.with(axis, size),
    }));
    nodes.push({
      op: 'Split',
      domain: '',
      name,
      inputs: [value.name, integers(sizes).name],
      outputs: parts.map((part) => part.name),
      attributes: { axis },
    });
    return parts;
  }

  const integers = (values: readonly number[]) =>
    once(`int64 ${values}`, () => {
      const name = `integers_${count++}`;
      const data = new Uint8Array(BigInt64Array.from(values, BigInt).buffer);
      initializers.push({ name, type: 'int64', shape: [values.length], data });
      return { name, type: 'int64', shape: [values.length] };
    });

  /** @param key tells constants of one shape apart */
  const constant = (key: string, values: Float32Array, shape: readonly number[]) =>
    once(`float32 ${key} ${shape}`, () => {
      const name = `constant_${count++}`;
      initializers.push({
        name,
        type: 'float32',
        shape,
        data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
      });
      return { name, type: 'float32', shape };
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
      if (product(used) * (type === 'float16' ? 2 : 4) !== external.length)
        throw new Error(`${tensor}: [${stored}] can’t be seen as [${used}]`);
      initializers.push({ name, type, shape: used, external });
      return cast({ name, type, shape: used }, 'float32');
    });
  }

  function cast(value: Value, type: ElementType): Value {
    return value.type === type
      ? value
      : op('Cast', [value], value.shape, { attributes: { to: ELEMENT_TYPE[type] }, type });
  }

  function reshape(value: Value, shape: readonly number[]): Value {
    if (sameShape(value.shape, shape)) return value;
    if (product(value.shape) !== product(shape)) throw new Error(`[${value.shape}] can’t be reshaped to [${shape}]`);
    return op('Reshape', [value, integers(shape)], shape);
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

  return {
    op,
    split,
    weight,
    constant,
    integers,
    reshape,
    transpose,
    has: weights.has,

    input(name: string, shape: readonly number[]): Value {
      const value = { name, type: 'float32' as const, shape };
      inputs.push(value);
      return value;
    },
    output(name: string, value: Value): void {
      op('Identity', [value], value.shape);
      nodes.at(-1)!.outputs = [name];
      outputs.push({ name, type: value.type, shape: value.shape });
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
    encode: () => encodeModel({ nodes, initializers, inputs, outputs }),
  };
}
