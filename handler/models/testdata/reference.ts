/** For tests: reads what diffusers computed, and compares. */
import { closeSync, cpSync, mkdirSync, openSync, readFileSync, readSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export { psnr } from '../svd/psnr.ts';

export const SMALL_SVD = fileURLToPath(new URL('small-svd', import.meta.url));

interface Header {
  [tensor: string]: { dtype: string; shape: number[]; data_offsets: [number, number] };
}

function readHeader(path: string): { header: Header; start: number } {
  const bytes = Buffer.alloc(8);
  const file = openSync(path, 'r');
  readSync(file, bytes, 0, 8, 0);
  const length = Number(bytes.readBigUInt64LE());
  const text = Buffer.alloc(length);
  readSync(file, text, 0, length, 8);
  closeSync(file);
  return { header: JSON.parse(text.toString('utf8')), start: 8 + length };
}

/** A file of float32 tensors beside this one. */
function tensorsOf(name: string) {
  const path = fileURLToPath(new URL(name, import.meta.url));
  const { header, start } = readHeader(path);
  const bytes = readFileSync(path);
  return {
    names: Object.keys(header).filter((tensor) => tensor !== '__metadata__'),
    read(tensor: string): { shape: number[]; data: Float32Array } {
      const { shape, data_offsets } = header[tensor]!;
      const [from, to] = data_offsets;
      return { shape, data: new Float32Array(new Uint8Array(bytes.subarray(start + from, start + to)).buffer) };
    },
  };
}

export const { names: referenceNames, read: reference } = tensorsOf('reference.safetensors');
export const { read: samplerReference } = tensorsOf('samplers.safetensors');

/**
 * Makes the small model with fewer layers in a folder, from links to its files and other configs. Its sessions open in a fifth of the time,
 * for tests that compare with no reference.
 */
export function withFewLayers(folder: string) {
  const changes = {
    unet: {
      block_out_channels: [64, 64],
      down_block_types: ['CrossAttnDownBlockSpatioTemporal', 'DownBlockSpatioTemporal'],
      up_block_types: ['UpBlockSpatioTemporal', 'CrossAttnUpBlockSpatioTemporal'],
      layers_per_block: 1,
      num_attention_heads: 2,
    },
    vae: { layers_per_block: 1 },
  };
  for (const name of ['feature_extractor', 'image_encoder']) symlinkSync(join(SMALL_SVD, name), join(folder, name));
  for (const [name, change] of Object.entries(changes)) {
    mkdirSync(join(folder, name));
    const [config, weights] = ['config.json', 'diffusion_pytorch_model.fp16.safetensors'].map((file) => join(name, file));
    const own = JSON.parse(readFileSync(join(SMALL_SVD, config!), 'utf8'));
    writeFileSync(join(folder, config!), JSON.stringify({ ...own, ...change }));
    symlinkSync(join(SMALL_SVD, weights!), join(folder, weights!));
  }
}

/** What each of the 2¹⁶ numbers in half precision is. */
const HALVES = Float32Array.from({ length: 2 ** 16 }, (_, bits) => fromHalf(bits));

/** Copies the small model to a folder in single precision; `change` may alter a tensor's values on the way. */
export function inSinglePrecision(folder: string, change: (tensor: string, values: Float32Array) => void = () => {}) {
  cpSync(SMALL_SVD, folder, { recursive: true, filter: (file) => !file.endsWith('.safetensors') });
  for (const file of ['image_encoder/model', 'vae/diffusion_pytorch_model', 'unet/diffusion_pytorch_model']) {
    const from = join(SMALL_SVD, `${file}.fp16.safetensors`);
    const half = readHeader(from);
    const bytes = readFileSync(from);
    const parts: Uint8Array[] = [];
    let offset = 0;
    const single: Header = {};
    for (const [name, { shape, data_offsets }] of Object.entries(half.header)) {
      if (name === '__metadata__') continue;
      const [begin, end] = data_offsets;
      const stored = new Uint16Array(new Uint8Array(bytes.subarray(half.start + begin, half.start + end)).buffer);
      const values = new Float32Array(stored.length);
      for (let i = 0; i < stored.length; i++) values[i] = HALVES[stored[i]!]!;
      change(name, values);
      single[name] = { dtype: 'F32', shape, data_offsets: [offset, offset + values.byteLength] };
      parts.push(new Uint8Array(values.buffer));
      offset += values.byteLength;
    }
    const text = Buffer.from(JSON.stringify(single));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(text.length));
    const target = join(folder, `${file}.safetensors`);
    mkdirSync(dirname(target), { recursive: true });
    writeFileSync(target, Buffer.concat([length, text, ...parts]));
  }
}

function fromHalf(bits: number): number {
  const sign = bits >> 15 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
}
