import { sizeOf, type Value } from '../value.ts';
import { broadcastShape, type ConvAttributes, convShape, type Operators } from './operators.ts';
import type { OpOptions } from './writer.ts';

/** Where the parts of a value end along an axis; of a whole value, its length. */
export function partEnds({ shape, parts }: Value, axis: number): number[] {
  if (parts?.axis !== axis) return [shape[axis]!];
  const ends: number[] = [];
  for (const part of parts.values) ends.push((ends.at(-1) ?? 0) + part.shape[axis]!);
  return ends;
}

export type Described = Pick<Value, 'type' | 'shape'>;

/** The first dimension that is not 1. */
export const leading = (shape: readonly number[]) =>
  Math.max(
    0,
    shape.findIndex((size) => size > 1),
  );
/** The dimension along which a value is divided first. */
const divisible = (shape: readonly number[]) => (shape[0] === 1 && shape.length === 4 ? 2 : leading(shape));

/**
 * Operators for a GPU whose kernels take tensors up to `limit` bytes. A larger value exists as parts only: along its first dimension or,
 * if that is one picture, as strips of rows. An operator on parts is one on each of them, with the rows around a strip where a kernel
 * reaches over its edge. All throw an Error that names the shape if a value can be divided no further, or if an operator needs it whole.
 *
 * Operators are properties and not methods: a graph spreads them over the plain ones.
 */
export class PartedOperators {
  readonly #plain: Operators;
  readonly #limit: number;

  constructor(plain: Operators, limit: number) {
    this.#plain = plain;
    this.#limit = limit;
  }

  op = (
    kind: string,
    operands: readonly (Value | undefined)[],
    shape: readonly number[],
    options: OpOptions = {},
  ): Value => {
    const result = { type: options.type ?? operands.find((value) => value)!.type, shape };
    if (this.#fit(result, operands)) return this.#plain.op(kind, operands, shape, options);
    const divided = kind === 'MatMul' ? 2 : 1; // operands that are divided like the result; others are weights
    return this.#divide(result, operands.slice(0, divided) as Value[], (axis, from, to) => {
      if (axis === shape.length - 1) throw new Error(`${kind} of [${shape}] can’t be divided`);
      const some = operands.map(
        (value, i) => value && (i < divided ? this.slice(value, axis, from, to) : this.#whole(value)),
      );
      return this.op(kind, some, shape.with(axis, to - from), options);
    });
  };

  map: Operators['map'] = (kind, value, options) => this.op(kind, [value], value.shape, options);

  cast: Operators['cast'] = (value, type) => this.#plain.cast(this.#whole(value), type);

  add = (a: Value, b: Value) => this.#elementwise('Add', a, b);
  sub = (a: Value, b: Value) => this.#elementwise('Sub', a, b);
  mul = (a: Value, b: Value) => this.#elementwise('Mul', a, b);

  slice = (value: Value, axis: number, from: number, to: number): Value => {
    if (from === 0 && to === value.shape[axis]) return value;
    if (!value.parts) return this.#plain.slice(value, axis, from, to);
    const { axis: along, values } = value.parts;
    if (axis !== along) {
      const slices = values.map((part) => this.slice(part, axis, from, to));
      return this.#join(slices, along);
    }
    const picked: Value[] = [];
    let start = 0;
    for (const part of values) {
      const end = start + part.shape[axis]!;
      if (from < end && to > start)
        picked.push(this.slice(part, axis, Math.max(from, start) - start, Math.min(to, end) - start));
      start = end;
    }
    return this.#join(picked, axis);
  };

  split = (value: Value, axis: number, sizes: readonly number[]): Value[] => {
    if (!value.parts) return this.#plain.split(value, axis, sizes);
    return sizes.map((size, i) => {
      const from = sizes.slice(0, i).reduce((sum, before) => sum + before, 0);
      return this.slice(value, axis, from, from + size);
    });
  };

  concat = (values: readonly Value[], axis: number): Value => {
    const size = values.reduce((sum, value) => sum + value.shape[axis]!, 0);
    const result = { type: values[0]!.type, shape: values[0]!.shape.with(axis, size) };
    if (this.#fit(result, values)) return this.#plain.concat(values, axis);
    if (axis === divisible(result.shape)) {
      const parts = values.flatMap((value) => (value.parts?.axis === axis ? value.parts.values : [value]));
      return this.#join(parts, axis);
    }
    return this.#divide(result, values, (along, from, to) => {
      const slices = values.map((value) => this.slice(value, along, from, to));
      return this.concat(slices, axis);
    });
  };

  /** Of parts, each is reshaped: their ends are brought to where the other shape's items end. */
  reshape = (value: Value, shape: readonly number[]): Value => {
    if (!value.parts) return this.#plain.reshape(value, shape);
    const [axis, other] = [leading(value.shape), leading(shape)];
    if (value.parts.axis !== axis) throw new Error(`strips of [${value.shape}] can’t be reshaped to [${shape}]`);
    const [items, others] = [value.shape[axis]!, shape[other]!];
    const ratio = items / others; // of one item of the result
    let ends = partEnds(value, axis);
    if (!ends.every((end) => Number.isInteger(end / ratio))) {
      const step = Math.max(1, Math.floor((this.#limit * others) / sizeOf(value))) * ratio;
      ends = Array.from({ length: Math.ceil(items / step) }, (_, i) => Math.min(items, (i + 1) * step));
    }
    const parts = ends.map((end, i) => {
      const part = this.slice(value, axis, ends[i - 1] ?? 0, end);
      return this.reshape(part, shape.with(other, part.shape[axis]! / ratio));
    });
    return this.#join(parts, other);
  };

  transpose = (value: Value, order: readonly number[]): Value => {
    if (!value.parts) return this.#plain.transpose(value, order);
    const { axis, values } = value.parts;
    const parts = values.map((part) => this.transpose(part, order));
    return this.#join(parts, order.indexOf(axis));
  };

  conv = (x: Value, kernel: Value, bias?: Value, attributes: ConvAttributes = {}): Value => {
    const result = { type: x.type, shape: convShape(x, kernel, attributes) };
    if (this.#fit(result, [x])) return this.#plain.conv(x, kernel, bias, attributes);
    const { pads = [0, 0, 0, 0], strides = [1, 1], dilations = [1, 1] } = attributes;
    const [N, C, height, W] = x.shape as [number, number, number, number];
    const reach = (kernel.shape[2]! - 1) * dilations[0]! + 1; // rows
    const rows = Math.floor(this.#limit / sizeOf({ type: x.type, shape: [C, W] })); // that fit
    const make = (axis: number, from: number, to: number) => {
      if (axis === 0) return this.conv(this.slice(x, 0, from, to), kernel, bias, attributes);
      // The rows that the kernel reaches from the result's rows, without those of the padding.
      const first = from * strides[0]! - pads[0]!;
      const last = (to - 1) * strides[0]! - pads[0]! + reach;
      const read = this.slice(x, 2, Math.max(0, first), Math.min(height, last));
      const around = [Math.max(0, -first), pads[1]!, Math.max(0, last - height), pads[3]!];
      return this.conv(read, kernel, bias, { ...attributes, pads: around });
    };
    return this.#divide(result, [x], make, N === 1 ? { most: Math.floor((rows - reach) / strides[0]!) + 1 } : {});
  };

  resize: Operators['resize'] = (x, [height, width]) => {
    const result = { type: x.type, shape: [...x.shape.slice(0, 2), height, width] };
    if (this.#fit(result, [x])) return this.#plain.resize(x, [height, width]);
    const factor = height / x.shape[2]!;
    const make = (axis: number, from: number, to: number) => {
      if (axis === 0) return this.resize(this.slice(x, 0, from, to), [height, width]);
      if (!Number.isInteger(factor)) throw new Error(`[${x.shape}] can’t be resized in strips to ${height} rows`);
      return this.resize(this.slice(x, 2, from / factor, to / factor), [to - from, width]);
    };
    return this.#divide(result, [x], make, { unit: x.shape[0] === 1 ? factor : 1 });
  };

  #elementwise(kind: 'Add' | 'Sub' | 'Mul', a: Value, b: Value): Value {
    const shape = broadcastShape(kind, a, b);
    const result = { type: a.type, shape };
    if (this.#fit(result, [a, b])) return this.#plain.op(kind, [a, b], shape);
    return this.#divide(result, [a, b], (axis, from, to) => {
      const part = (value: Value) => {
        const own = axis - (shape.length - value.shape.length); // its dimensions are the last ones
        return own < 0 || value.shape[own] === 1 ? this.#whole(value) : this.slice(value, own, from, to);
      };
      return this.#elementwise(kind, part(a), part(b));
    });
  }

  /** Whether an operator takes and gives whole values. */
  #fit(result: Described, operands: readonly (Value | undefined)[]): boolean {
    return sizeOf(result) <= this.#limit && !operands.some((value) => value?.parts);
  }

  #whole(value: Value): Value {
    if (!value.parts) return value;
    throw new Error(`[${value.shape}] can’t be whole: the GPU’s tensors have at most ${this.#limit} bytes`);
  }

  /** Parts as one value: whole if they fit. */
  #join(values: readonly Value[], axis: number): Value {
    const [first] = values as [Value];
    if (values.length === 1) return first;
    const size = values.reduce((sum, value) => sum + value.shape[axis]!, 0);
    const joined = { type: first.type, shape: first.shape.with(axis, size) };
    return this.#fit(joined, values)
      ? this.#plain.concat(values, axis)
      : { ...joined, name: '', parts: { axis, values } };
  }

  /**
   * A result of this shape from `make`, which gives the part [from, to) of an axis. It is divided like its operands, and further until each
   * part fits.
   * @param unit of which the ends of parts are multiples
   * @param most the largest part
   */
  #divide(
    result: Described,
    operands: readonly Value[],
    make: (axis: number, from: number, to: number) => Value,
    { unit = 1, most = Infinity } = {},
  ): Value {
    const byParts = operands
      .filter((value) => value.parts)
      .sort((a, b) => a.parts!.values.length - b.parts!.values.length);
    const [divided] = byParts; // into the fewest parts
    const axis = divided?.parts?.axis ?? divisible(result.shape);
    const size = result.shape[axis]!;
    if ((!divided && size <= unit) || most < 1)
      throw new Error(`[${result.shape}] can’t be divided into parts of ${this.#limit} bytes`);
    const scale = divided ? size / divided.shape[axis]! : 1;
    const ends = divided ? partEnds(divided, axis).map((end) => Math.round(end * scale)) : [size];
    const itemBytes = sizeOf(result) / size;
    const room = axis === 2 ? this.#limit - 2 * itemBytes : this.#limit; // for the rows next to a strip that a 3×3 kernel reads
    const parts: Value[] = [];
    let from = 0;
    for (const end of ends) {
      const units = (end - from) / unit;
      const count = Math.ceil(Math.max((units * unit * itemBytes) / room, (units * unit) / most));
      for (const step = Math.ceil(units / Math.min(units, count)) * unit; from < end; from += step)
        parts.push(make(axis, from, Math.min(end, from + step)));
      from = end;
    }
    return this.#join(parts, axis);
  }
}
