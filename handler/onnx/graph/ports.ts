/**
 * Inputs and outputs that exceed a GPU's largest binding. Each consists of several tensors, whose numbers come one after the other: they are
 * parts of the first dimension that is not 1, and parts of those if one item is still too large.
 */
import { sizeOf, type Value } from '../value.ts';
import type { Operators } from './operators.ts';
import { type Described, leading } from './parts.ts';

/** The parts of a value along its first dimension that is not 1: as few as have at most `limit` bytes, else one for each item. */
function divide(value: Described, limit: number): { axis: number; ranges: (readonly [from: number, to: number])[] } {
  const axis = leading(value.shape);
  const items = value.shape[axis]!;
  const most = Math.max(1, Math.floor(limit / (sizeOf(value) / items)));
  const step = Math.ceil(items / Math.ceil(items / most)); // of even lengths
  const ranges = Array.from(
    { length: Math.ceil(items / step) },
    (_, i) => [i * step, Math.min(items, (i + 1) * step)] as const,
  );
  return { axis, ranges };
}

/**
 * An input as one value.
 * @param limit bytes of the largest tensor
 * @param make called with the shape of each tensor, in the order of their numbers
 */
export function joinTensors(
  operators: Operators,
  value: Described,
  limit: number,
  make: (shape: readonly number[]) => Value,
): Value {
  if (sizeOf(value) <= limit) return make(value.shape);
  const { axis, ranges } = divide(value, limit);
  const parts = ranges.map(([from, to]) =>
    joinTensors(operators, { ...value, shape: value.shape.with(axis, to - from) }, limit, make),
  );
  return operators.concat(parts, axis);
}

/** An output as tensors, in the order of their numbers. @param limit bytes of the largest */
export function splitTensors(operators: Operators, value: Value, limit: number): Value[] {
  if (!value.parts) return [value];
  const { axis, ranges } = divide(value, limit);
  const parts =
    value.parts.axis === axis ? value.parts.values : ranges.map(([from, to]) => operators.slice(value, axis, from, to));
  return parts.flatMap((part) => splitTensors(operators, part, limit));
}
