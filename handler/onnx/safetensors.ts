/** Weights as Hugging Face stores them (github.com/huggingface/safetensors): a JSON header, then the tensors' bytes. */
import { closeSync, fstatSync, openSync, readSync, realpathSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import * as v from 'valibot';
import { sizeOf } from './value.ts';

const ELEMENT_TYPES: Record<string, 'float32' | 'float16'> = { F32: 'float32', F16: 'float16' };
const MAX_HEADER = 100_000_000; // bytes, as in the format's own reader

export interface StoredTensor {
  type: 'float32' | 'float16';
  shape: readonly number[];
  /** of its first byte, from the beginning of the file */
  offset: number;
  /** in bytes */
  length: number;
}

export interface SafeTensors {
  /** folder and name of the real file, behind any links of a cache */
  folder: string;
  name: string;
  /**
   * @param shape what it has to be
   * @throws WeightsError: missing, or of another shape or type
   */
  get(tensor: string, shape: readonly number[]): StoredTensor;
}

/** The weights of a graph that has none. */
export const NO_WEIGHTS: SafeTensors = {
  folder: '.',
  name: '',
  get(tensor) {
    throw new Error(`${tensor}: the graph has no weights`);
  },
};

/** A weights file that can’t be used. The message names the file and the tensor. */
export class WeightsError extends Error {
  constructor(file: string, message: string, options?: ErrorOptions) {
    super(`${file}: ${message}`, options);
    this.name = 'WeightsError';
  }
}

const headerSchema = v.pipe(
  v.looseObject({ __metadata__: v.optional(v.unknown()) }),
  v.transform(({ __metadata__, ...tensors }) => tensors),
  v.record(
    v.string(),
    v.object({
      dtype: v.string(),
      shape: v.array(v.pipe(v.number(), v.integer(), v.minValue(0))),
      data_offsets: v.tuple([v.pipe(v.number(), v.minValue(0)), v.number()]),
    }),
  ),
);

/**
 * Reads the header. The tensors stay in the file.
 * @throws WeightsError: missing, truncated, or not such a file
 */
export function openSafeTensors(path: string): SafeTensors {
  const { tensors, dataStart, size, file } = readHeader(path);
  for (const [name, { data_offsets }] of Object.entries(tensors)) {
    const end = dataStart + data_offsets[1];
    if (end > size) throw new WeightsError(path, `truncated: ${name} ends at byte ${end}, the file at ${size}`);
  }
  return {
    folder: dirname(file),
    name: basename(file),
    get(name, shape) {
      const tensor = Object.hasOwn(tensors, name) && tensors[name];
      if (!tensor) throw new WeightsError(path, `has no tensor ${name}`);
      const type = ELEMENT_TYPES[tensor.dtype];
      if (!type) throw new WeightsError(path, `${name} is ${tensor.dtype}, not F32 or F16`);
      if (tensor.shape.join() !== shape.join())
        throw new WeightsError(path, `${name} has shape [${tensor.shape}], not [${shape}]`);
      const [begin, end] = tensor.data_offsets;
      const [length, expected] = [end - begin, sizeOf({ type, shape })];
      if (length !== expected)
        throw new WeightsError(path, `${name} has ${length} bytes, not the ${expected} of its shape`);
      return { type, shape, offset: dataStart + begin, length };
    },
  };
}

function readHeader(path: string) {
  let descriptor: number;
  let file: string;
  try {
    file = realpathSync(path); // onnxruntime refuses weights behind a link that leads out of the folder, as a cache's do
    descriptor = openSync(file, 'r');
  } catch (cause) {
    throw new WeightsError(path, 'can’t be read', { cause });
  }
  try {
    const { size } = fstatSync(descriptor);
    const prefix = Buffer.alloc(8);
    if (readSync(descriptor, prefix, 0, 8, 0) < 8) throw new WeightsError(path, 'truncated: it has no header');
    const length = Number(prefix.readBigUInt64LE());
    if (length > MAX_HEADER || 8 + length > size) throw new WeightsError(path, 'truncated, or no safetensors file');
    const bytes = Buffer.alloc(length);
    readSync(descriptor, bytes, 0, length, 8);
    return { tensors: v.parse(headerSchema, JSON.parse(bytes.toString())), dataStart: 8 + length, size, file };
  } catch (cause) {
    if (cause instanceof WeightsError) throw cause;
    throw new WeightsError(path, 'its header is not that of a safetensors file', { cause });
  } finally {
    closeSync(descriptor);
  }
}
