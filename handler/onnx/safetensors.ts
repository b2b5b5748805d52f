/** Weights as Hugging Face stores them (github.com/huggingface/safetensors): a JSON header, then the tensors' bytes. */
import { closeSync, fstatSync, openSync, readSync, realpathSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import * as v from 'valibot';

const ELEMENT_BYTES = { F32: 4, F16: 2 } as const;
const TYPE_NAMES = { F32: 'float32', F16: 'float16' } as const;
const MAX_HEADER = 100_000_000; // bytes, as in the format's own reader

export interface StoredTensor {
  type: 'float32' | 'float16';
  shape: number[];
  /** of its first byte, from the beginning of the file */
  offset: number;
  /** in bytes */
  length: number;
}

export interface SafeTensors {
  /** the real file, behind any links of a cache */
  file: string;
  /** its folder and name */
  folder: string;
  name: string;
  /**
   * @param shape what it has to be
   * @throws WeightsError: missing, or of another shape or type
   */
  get(tensor: string, shape: readonly number[]): StoredTensor;
}

/** A weights file that can't be used; the message names the file and the tensor. */
export class WeightsError extends Error {
  constructor(file: string, message: string, options?: ErrorOptions) {
    super(`${file}: ${message}`, options);
    this.name = 'WeightsError';
  }
}

const headerSchema = v.record(
  v.string(),
  v.looseObject({
    dtype: v.optional(v.string()),
    shape: v.optional(v.array(v.pipe(v.number(), v.integer(), v.minValue(0)))),
    data_offsets: v.optional(v.tuple([v.number(), v.number()])),
  }),
);

/**
 * Reads the header; the tensors stay where they are.
 * @throws WeightsError: missing, truncated, or not such a file
 */
export function openSafeTensors(path: string): SafeTensors {
  const { header, dataStart, size, file } = readHeader(path);
  const tensors = new Map<string, { dtype: string; shape: number[]; begin: number; end: number }>();
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    if (!dtype || !shape || !data_offsets) throw new WeightsError(path, `the header’s entry for ${name} is not whole`);
    const [begin, end] = data_offsets;
    if (begin < 0 || end < begin || dataStart + end > size) {
      throw new WeightsError(path, `truncated: ${name} ends at byte ${dataStart + end}, the file at ${size}`);
    }
    tensors.set(name, { dtype, shape, begin, end });
  }
  return {
    file,
    folder: dirname(file),
    name: basename(file),
    get(name, shape) {
      const tensor = tensors.get(name);
      if (!tensor) throw new WeightsError(path, `has no tensor ${name}`);
      if (tensor.dtype !== 'F32' && tensor.dtype !== 'F16')
        throw new WeightsError(path, `${name} is ${tensor.dtype}, not F32 or F16`);
      if (tensor.shape.join() !== shape.join())
        throw new WeightsError(path, `${name} has shape [${tensor.shape}], not [${shape}]`);
      const length = tensor.end - tensor.begin;
      if (length !== shape.reduce((product, n) => product * n, 1) * ELEMENT_BYTES[tensor.dtype]) {
        throw new WeightsError(path, `${name} has ${length} bytes, which is not what its shape says`);
      }
      return { type: TYPE_NAMES[tensor.dtype], shape: tensor.shape, offset: dataStart + tensor.begin, length };
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
    if (readSync(descriptor, prefix, 0, 8, 0) < 8) throw new WeightsError(path, 'truncated: it has not even a header');
    const length = Number(prefix.readBigUInt64LE());
    if (length > MAX_HEADER || 8 + length > size) throw new WeightsError(path, 'truncated, or no safetensors file');
    const bytes = Buffer.alloc(length);
    readSync(descriptor, bytes, 0, length, 8);
    return { header: v.parse(headerSchema, JSON.parse(bytes.toString('utf8'))), dataStart: 8 + length, size, file };
  } catch (cause) {
    if (cause instanceof WeightsError) throw cause;
    throw new WeightsError(path, 'its header is not that of a safetensors file', { cause });
  } finally {
    closeSync(descriptor);
  }
}
