/**
 * ONNX models as protocol buffers: as much of the format as our graphs use (onnx/onnx.proto, protobuf.dev/programming-guides/encoding).
 * Field numbers are those of onnx.proto.
 */

/** ONNX's numbers for element types. */
export const ELEMENT_TYPE = { float32: 1, int64: 7, bool: 9, float16: 10 } as const;
export type ElementType = keyof typeof ELEMENT_TYPE;
export const ELEMENT_BYTES = { float32: 4, int64: 8, bool: 1, float16: 2 } as const;

/** A whole number, whole numbers, text, a graph within, or a float: a float with a whole value must still be written as one. */
export type Attribute = number | readonly number[] | string | { float: number } | { graph: OnnxGraph };

export interface OnnxNode {
  op: string;
  /** '' for ONNX's own operators */
  domain: string;
  name: string;
  /** '' where an optional one is left out */
  inputs: string[];
  outputs: string[];
  attributes: Record<string, Attribute>;
}

export interface OnnxValue {
  name: string;
  type: ElementType;
  /** −1: known in a run only */
  shape: readonly number[];
}

/** Its data lies here, or in another file at a byte offset. */
export type OnnxInitializer = OnnxValue &
  ({ data: Uint8Array } | { external: { location: string; offset: number; length: number } });

export interface OnnxGraph {
  nodes: readonly OnnxNode[];
  initializers?: readonly OnnxInitializer[];
  inputs?: readonly OnnxValue[];
  outputs: readonly OnnxValue[];
}

const IR_VERSION = 9;
const OPSETS: Record<string, number> = { '': 20, 'com.microsoft': 1 };

/** @returns a serialized ModelProto */
export function encodeModel(model: OnnxGraph): Uint8Array {
  const opsets = Object.entries(OPSETS);
  return message()
    .integer(1, IR_VERSION)
    .text(2, 'text-to-video-api')
    .message(7, graph(model))
    .messages(8, opsets, ([domain, version]) => message().text(1, domain).integer(2, version))
    .finish();
}

function graph({ nodes, initializers = [], inputs = [], outputs }: OnnxGraph): Message {
  return message()
    .messages(1, nodes, node)
    .text(2, 'graph')
    .messages(5, initializers, tensor)
    .messages(11, inputs, valueInfo)
    .messages(12, outputs, valueInfo);
}

function node({ op, domain, name, inputs, outputs, attributes }: OnnxNode) {
  const out = message();
  for (const input of inputs) out.text(1, input);
  for (const output of outputs) out.text(2, output);
  return out.text(3, name).text(4, op).messages(5, Object.entries(attributes), attribute).text(7, domain);
}

function attribute([name, value]: [string, Attribute]) {
  const out = message().text(1, name);
  if (typeof value === 'string') return out.text(4, value).integer(20, 3);
  if (typeof value === 'number') return out.integer(3, value).integer(20, 2);
  if ('float' in value) return out.float(2, value.float).integer(20, 1);
  if ('graph' in value) return out.message(6, graph(value.graph)).integer(20, 5);
  for (const item of value) out.integer(8, item);
  return out.integer(20, 7);
}

function tensor(initializer: OnnxInitializer) {
  const out = message();
  for (const size of initializer.shape) out.integer(1, size);
  out.integer(2, ELEMENT_TYPE[initializer.type]).text(8, initializer.name);
  if ('data' in initializer) return out.bytes(9, initializer.data);
  const entries = Object.entries(initializer.external);
  return out.messages(13, entries, ([key, value]) => message().text(1, key).text(2, String(value))).integer(14, 1);
}

function valueInfo({ name, type, shape }: OnnxValue) {
  const dimensions = message().messages(1, shape, (size) => (size === -1 ? message() : message().integer(1, size)));
  const tensorType = message().integer(1, ELEMENT_TYPE[type]).message(2, dimensions);
  return message().text(1, name).message(2, message().message(1, tensorType));
}

const VARINT = 0;
const LENGTH_DELIMITED = 2;
const FIXED_32 = 5;

const message = () => new Message();

/** Fields one after the other, in a buffer that grows. A class, for a graph has a hundred thousand of them. */
class Message {
  #buffer = Buffer.allocUnsafe(128);
  #length = 0;

  #makeRoom(more: number) {
    if (this.#length + more <= this.#buffer.length) return;
    const larger = Buffer.allocUnsafe(Math.max(2 * this.#buffer.length, this.#length + more));
    this.#buffer.copy(larger, 0, 0, this.#length);
    this.#buffer = larger;
  }

  #varint(value: number) {
    this.#makeRoom(10);
    let rest = value;
    if (value < 0) {
      let bits = BigInt.asUintN(64, BigInt(value));
      for (; bits > 127n; bits >>= 7n) this.#buffer[this.#length++] = Number(bits & 127n) | 128;
      rest = Number(bits);
    }
    for (; rest > 127; rest = Math.floor(rest / 128)) this.#buffer[this.#length++] = (rest % 128) | 128;
    this.#buffer[this.#length++] = rest;
  }

  #key(field: number, wireType: number) {
    this.#varint((field << 3) | wireType);
  }

  integer(field: number, value: number): this {
    this.#key(field, VARINT);
    this.#varint(value);
    return this;
  }

  float(field: number, value: number): this {
    this.#key(field, FIXED_32);
    this.#makeRoom(4);
    this.#length = this.#buffer.writeFloatLE(value, this.#length);
    return this;
  }

  bytes(field: number, value: Uint8Array): this {
    this.#key(field, LENGTH_DELIMITED);
    this.#varint(value.length);
    this.#makeRoom(value.length);
    this.#buffer.set(value, this.#length);
    this.#length += value.length;
    return this;
  }

  text(field: number, value: string): this {
    const size = Buffer.byteLength(value);
    this.#key(field, LENGTH_DELIMITED);
    this.#varint(size);
    this.#makeRoom(size);
    this.#length += this.#buffer.write(value, this.#length);
    return this;
  }

  message(field: number, value: Message): this {
    return this.bytes(field, value.finish());
  }

  messages<T>(field: number, values: readonly T[], encode: (value: T) => Message): this {
    for (const value of values) this.message(field, encode(value));
    return this;
  }

  finish(): Uint8Array {
    return this.#buffer.subarray(0, this.#length);
  }
}
