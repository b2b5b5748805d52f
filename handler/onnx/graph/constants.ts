import type { SafeTensors } from '../safetensors.ts';
import { sizeOf, type Value } from '../value.ts';
import type { Operators } from './operators.ts';
import type { Writer } from './writer.ts';

interface WeightView {
  /** another shape of as many elements */
  shape?: readonly number[];
  /** part of the first dimension */
  rows?: readonly [from: number, to: number];
}

/** Constants and weights, once each, cast to the precision that is computed in. */
export function createConstants(
  writer: Writer,
  { op, cast, integers }: Operators,
  weights: SafeTensors,
  precision: 'float32' | 'float16',
) {
  /** @param key distinguishes constants of one shape */
  const constant = (key: string, values: Float32Array, shape: readonly number[]) =>
    writer.once(`float32 ${key} ${shape}`, () => {
      const data = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
      const initializer = { name: writer.newName('constant'), type: 'float32', shape, data } as const;
      return cast(writer.known(writer.initialize(initializer)), precision);
    });

  /** A one that is also an input of the graph: onnxruntime does not fold what a caller may replace. Only the graph itself has inputs. */
  function replaceableOne(): Value {
    const one = writer.inScope('', () => constant('replaceable one', Float32Array.of(1), [1]));
    writer.replaceable.add(one.name);
    return one;
  }

  /** Ones in a row of any length, made when they are used. A folded constant would be held in memory. */
  const ones = (length: number) =>
    writer.once(`ones ${length}`, () => op('Expand', [replaceableOne(), integers([length])], [length]));

  /**
   * A weight or a view of it. A view costs nothing: it is arithmetic on the byte offset in the weights file.
   * @param stored its shape in the file
   * @throws WeightsError
   */
  function weight(tensor: string, stored: readonly number[], { shape = stored, rows }: WeightView = {}): Value {
    const [from, to] = rows ?? [0, stored[0]!];
    const viewed = rows ? [to - from, ...shape.slice(1)] : shape;
    return writer.once(`weight ${tensor} ${rows ?? ''} ${viewed}`, () => {
      const { type, offset, length } = weights.get(tensor, stored);
      const rowBytes = length / stored[0]!;
      const name = `${writer.scope}${tensor}${rows ? `[${from}:${to}]` : ''}|${viewed.join('x')}`;
      const external = { location: weights.name, offset: offset + from * rowBytes, length: (to - from) * rowBytes };
      if (sizeOf({ type, shape: viewed }) !== external.length)
        throw new Error(`${tensor}: [${stored}] can’t be seen as [${viewed}]`);
      return cast(writer.known(writer.initialize({ name, type, shape: viewed, external })), precision);
    });
  }

  return { constant, ones, weight, replaceableOne };
}
