/** svd_xt's networks in their real size where the real weights can't be had: their configs, and files of random weights. */
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import * as v from 'valibot';
import type { Graph } from '../../handler/onnx/graph.ts';
import { clipConfig } from '../../handler/onnx/image-encoder.ts';
import type { SafeTensors } from '../../handler/onnx/safetensors.ts';
import { unetConfig } from '../../handler/onnx/unet.ts';
import { vaeConfig } from '../../handler/onnx/vae.ts';
import { product, sizeOf } from '../../handler/onnx/value.ts';
import { generator } from '../../handler/sampling/torch-random.ts';

/** As in the official repository's config.json files. */
const configs = JSON.parse(readFileSync(new URL('svd-xt-configs.json', import.meta.url), 'utf8'));
export const SVD_XT = {
  clip: v.parse(clipConfig, configs.image_encoder),
  vae: v.parse(vaeConfig, configs.vae),
  unet: v.parse(unetConfig, configs.unet),
};

type WeightType = 'float32' | 'float16';
/** Shapes of tensors by their names. */
export type Shapes = Map<string, readonly number[]>;

/** The tensors that graphs ask their weights file for. */
export function shapesOf(...graphs: ((weights: SafeTensors) => Graph)[]): Shapes {
  const shapes: Shapes = new Map();
  const recorder: SafeTensors = {
    folder: '.',
    name: 'none',
    get(tensor, shape) {
      shapes.set(tensor, shape);
      return { type: 'float32', shape: [...shape], offset: 0, length: sizeOf({ type: 'float32', shape }) };
    },
  };
  for (const write of graphs) write(recorder);
  return shapes;
}

/** The beginning of a safetensors file of these tensors, one after the other, and the file's length in bytes. */
export function safeTensorsHeader(shapes: Shapes, type: WeightType): { header: Buffer; fileBytes: number } {
  let end = 0;
  const entries: Record<string, object> = {};
  for (const [tensor, shape] of shapes) {
    const begin = end;
    end += sizeOf({ type, shape });
    entries[tensor] = { dtype: type === 'float32' ? 'F32' : 'F16', shape, data_offsets: [begin, end] };
  }
  const text = Buffer.from(JSON.stringify(entries));
  const length = Math.ceil(text.length / 8) * 8; // so that the tensors are aligned
  const header = Buffer.alloc(8 + length, ' ');
  header.writeBigUInt64LE(BigInt(length));
  text.copy(header, 8);
  return { header, fileBytes: header.length + end };
}

/** So many random numbers are made, and repeated. A prime number, so that no two rows of a matrix are equal. */
const PERIOD = 1_048_573;

/**
 * Writes a safetensors file whose network keeps its values' scale: kernels are normal with a variance of 1 / inputs, the factors of
 * norms are 1, and all else is 0.
 */
export function writeRandomWeights(path: string, shapes: Shapes, type: WeightType): void {
  const normal = generator(0).randn(PERIOD);
  const patterns = new Map<string, Uint8Array>();
  const patternOf = (tensor: string, shape: readonly number[]): Uint8Array => {
    const inputs = product(shape.slice(1));
    const kind = shape.length > 1 ? `normal ${inputs}` : String(/norm\w*\.weight$/.test(tensor));
    const found = patterns.get(kind);
    if (found) return found;
    const constant = kind === 'true' ? 1 : 0;
    const values =
      shape.length > 1 ? normal.map((x) => x / Math.sqrt(inputs)) : new Float32Array(PERIOD).fill(constant);
    const pattern = new Uint8Array(type === 'float32' ? values.buffer : toHalf(values).buffer);
    patterns.set(kind, pattern);
    return pattern;
  };
  const file = openSync(path, 'w');
  try {
    writeSync(file, safeTensorsHeader(shapes, type).header);
    for (const [tensor, shape] of shapes) {
      const pattern = patternOf(tensor, shape);
      for (let left = sizeOf({ type, shape }); left > 0; )
        left -= writeSync(file, pattern, 0, Math.min(left, pattern.length));
    }
  } finally {
    closeSync(file);
  }
}

/** The bits of numbers in half precision, rounded; those below 2⁻¹⁴ become 0. @param values below 65504 */
function toHalf(values: Float32Array): Uint16Array {
  return Uint16Array.from(new Uint32Array(values.buffer, values.byteOffset, values.length), (bits) => {
    const sign = (bits >>> 16) & 0x8000;
    const exponent = ((bits >>> 23) & 0xff) - 112;
    return exponent > 0 ? sign | ((exponent << 10) + (((bits & 0x7f_ffff) + 0x1000) >> 13)) : sign;
  });
}
