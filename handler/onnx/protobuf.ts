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
const OPSETS = { '': 20, 'com.microsoft': 1 };

/** @returns a serialized ModelProto */
export function encodeModel(model: OnnxGraph): Uint8Array {
  const opsets = Object.entries(OPSETS).map(([domain, version]) => message(8, [text(1, domain), integer(2, version)]));
  return Buffer.concat([integer(1, IR_VERSION), text(2, 'text-to-video-api'), message(7, graph(model)), ...opsets]);
}

// A message is the list of its fields. Each function below gives the fields of the message it is named for.

const graph = ({ nodes, initializers = [], inputs = [], outputs }: OnnxGraph): Buffer[] => [
  ...nodes.map((one) => message(1, node(one))),
  text(2, 'graph'),
  ...initializers.map((one) => message(5, tensor(one))),
  ...inputs.map((one) => message(11, valueInfo(one))),
  ...outputs.map((one) => message(12, valueInfo(one))),
];

const node = ({ op, domain, name, inputs, outputs, attributes }: OnnxNode): Buffer[] => [
  ...inputs.map((input) => text(1, input)),
  ...outputs.map((output) => text(2, output)),
  text(3, name),
  text(4, op),
  ...Object.entries(attributes).map(([name, value]) => message(5, [text(1, name), ...attribute(value)])),
  text(7, domain),
];

function attribute(value: Attribute): Buffer[] {
  if (typeof value === 'string') return [text(4, value), integer(20, 3)];
  if (typeof value === 'number') return [integer(3, value), integer(20, 2)];
  if ('float' in value) return [float(2, value.float), integer(20, 1)];
  if ('graph' in value) return [message(6, graph(value.graph)), integer(20, 5)];
  return [...value.map((item) => integer(8, item)), integer(20, 7)];
}

function tensor({ name, type, shape, ...stored }: OnnxInitializer): Buffer[] {
  const fields = [...shape.map((size) => integer(1, size)), integer(2, ELEMENT_TYPE[type]), text(8, name)];
  if ('data' in stored) return [...fields, bytes(9, stored.data)];
  const entries = Object.entries(stored.external).map(([key, value]) =>
    message(13, [text(1, key), text(2, String(value))]),
  );
  return [...fields, ...entries, integer(14, 1)];
}

function valueInfo({ name, type, shape }: OnnxValue): Buffer[] {
  const dimensions = shape.map((size) => message(1, size === -1 ? [] : [integer(1, size)]));
  const tensorType = message(1, [integer(1, ELEMENT_TYPE[type]), message(2, dimensions)]);
  return [text(1, name), message(2, [tensorType])];
}

// Fields on the wire (protobuf.dev/programming-guides/encoding): a key, which holds the number and the wire type, then the value.

const integer = (field: number, value: number) => Buffer.from([...varint(field << 3), ...varint(value)]);

function float(field: number, value: number): Buffer {
  const out = Buffer.from([...varint((field << 3) | 5), 0, 0, 0, 0]);
  out.writeFloatLE(value, out.length - 4);
  return out;
}

const bytes = (field: number, value: Uint8Array) =>
  Buffer.concat([Buffer.from([...varint((field << 3) | 2), ...varint(value.length)]), value]);
const text = (field: number, value: string) => bytes(field, Buffer.from(value));
const message = (field: number, fields: readonly Buffer[]) => bytes(field, Buffer.concat(fields));

/** Seven bits a byte, the lowest first. A negative number is the 64 bits of its two's complement. */
function varint(value: number): number[] {
  const out: number[] = [];
  let rest = value;
  if (value < 0) {
    let bits = BigInt.asUintN(64, BigInt(value));
    for (; bits > 127n; bits >>= 7n) out.push(Number(bits & 127n) | 128);
    rest = Number(bits);
  }
  for (; rest > 127; rest = Math.floor(rest / 128)) out.push((rest % 128) | 128);
  out.push(rest);
  return out;
}
