import { ELEMENT_TYPE, type ElementType } from '../protobuf.ts';
import { product, type Value } from '../value.ts';
import type { OpOptions, Writer } from './writer.ts';

export interface ConvAttributes {
  strides?: readonly number[];
  dilations?: readonly number[];
  /** before each axis, then after each */
  pads?: readonly number[];
  group?: number;
}

/** The shape of a convolution's result. */
export function convShape(x: Value, kernel: Value, { strides, dilations, pads }: ConvAttributes): number[] {
  const [out, , ...lengths] = kernel.shape;
  const sizes = lengths.map((length, i) => {
    const padded = x.shape[i + 2]! + (pads?.[i] ?? 0) + (pads?.[i + lengths.length] ?? 0);
    return Math.floor((padded - (dilations?.[i] ?? 1) * (length - 1) - 1) / (strides?.[i] ?? 1)) + 1;
  });
  return [x.shape[0]!, out!, ...sizes];
}

/** The shape of two operands' elementwise result. @throws Error: neither 1 nor equal in a dimension */
export function broadcastShape(kind: string, a: Value, b: Value): number[] {
  const rank = Math.max(a.shape.length, b.shape.length);
  const padded = (shape: readonly number[]) => [...Array<number>(rank - shape.length).fill(1), ...shape];
  const right = padded(b.shape);
  return padded(a.shape).map((size, i) => {
    const other = right[i]!;
    if (size !== other && size !== 1 && other !== 1) throw new Error(`${kind} of [${a.shape}] and [${b.shape}]`);
    return Math.max(size, other);
  });
}

/** ONNX's operators, each with the shape of its result. @throws Error that names the operator and the shapes: they don't fit */
export function createOperators(writer: Writer) {
  const { op, once } = writer;

  const integers = (values: readonly number[]) =>
    once(`int64 ${values}`, () => {
      const data = new Uint8Array(BigInt64Array.from(values, BigInt).buffer);
      return writer.initialize({ name: writer.newName('integers'), type: 'int64', shape: [values.length], data });
    });

  function cast(value: Value, type: ElementType): Value {
    if (value.type === type) return value;
    return op('Cast', [value], value.shape, { attributes: { to: ELEMENT_TYPE[type] }, type });
  }

  function reshape(value: Value, shape: readonly number[]): Value {
    if (`${value.shape}` === `${shape}`) return value;
    if (product(value.shape) !== product(shape)) throw new Error(`[${value.shape}] can’t be reshaped to [${shape}]`);
    return op('Reshape', [value, integers([-1, ...shape.slice(1)])], shape);
  }

  function transpose(value: Value, order: readonly number[]): Value {
    const shape = order.map((axis) => value.shape[axis]!);
    return op('Transpose', [value], shape, { attributes: { perm: order } });
  }

  /** The part [from, to) of one axis. */
  function slice(value: Value, axis: number, from: number, to: number): Value {
    return op('Slice', [value, ...[[from], [to], [axis]].map(integers)], value.shape.with(axis, to - from));
  }

  function split(value: Value, axis: number, sizes: readonly number[]): Value[] {
    const name = writer.newName('Split');
    const inputs = [value.name, integers(sizes).name];
    const outputs = sizes.map((_, i) => `${name}_${i}`);
    writer.add({ op: 'Split', domain: '', name, inputs, outputs, attributes: { axis } });
    return outputs.map((name, i) => writer.known({ ...value, name, shape: value.shape.with(axis, sizes[i]!) }));
  }

  function concat(values: readonly Value[], axis: number): Value {
    if (values.length === 1) return values[0]!;
    const size = values.reduce((sum, value) => sum + value.shape[axis]!, 0);
    return op('Concat', values, values[0]!.shape.with(axis, size), { attributes: { axis } });
  }

  /** Elementwise, each dimension of one operand 1 or as the other's. */
  const elementwise = (kind: 'Add' | 'Sub' | 'Mul') => (a: Value, b: Value) =>
    op(kind, [a, b], broadcastShape(kind, a, b));

  /** [N, C, …] and a kernel [out, C / group, …] → [N, out, …] */
  function conv(x: Value, kernel: Value, bias?: Value, attributes: ConvAttributes = {}): Value {
    const kernel_shape = kernel.shape.slice(2);
    const operands = bias ? [x, kernel, bias] : [x, kernel];
    return op('Conv', operands, convShape(x, kernel, attributes), { attributes: { kernel_shape, ...attributes } });
  }

  /** Nearest neighbours: [N, C, H, W] → [N, C, height, width] */
  function resize(x: Value, [height, width]: readonly [height: number, width: number]): Value {
    const shape = [...x.shape.slice(0, 2), height, width];
    const attributes = { mode: 'nearest', coordinate_transformation_mode: 'asymmetric', nearest_mode: 'floor' };
    return op('Resize', [x, undefined, undefined, integers(shape)], shape, { attributes });
  }

  return {
    ...{ op, integers, cast, reshape, transpose, slice, split, concat, conv, resize },
    add: elementwise('Add'),
    sub: elementwise('Sub'),
    mul: elementwise('Mul'),
    /** An operator that changes values only. */
    map: (kind: string, value: Value, options?: OpOptions) => op(kind, [value], value.shape, options),
  };
}
export type Operators = ReturnType<typeof createOperators>;
