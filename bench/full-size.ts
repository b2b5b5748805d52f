/** svd_xt in its real size for benchmarks, where the real weights can't be had: the official layout, every weight zero. */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import * as v from 'valibot';
import type { Graph } from '../handler/onnx/graph.ts';
import { clipConfig, clipVision } from '../handler/onnx/image-encoder.ts';
import type { SafeTensors } from '../handler/onnx/safetensors.ts';
import { unet, unetConfig } from '../handler/onnx/unet.ts';
import { vaeConfig, vaeDecoder, vaeEncoder } from '../handler/onnx/vae.ts';
import { pathOf, SMALL_SVD } from './peers.ts';

const FLOAT = 4; // bytes

/** As in the official repository's config.json files. */
const CONFIGS = JSON.parse(readFileSync(pathOf('svd-xt-configs.json'), 'utf8'));
const [CLIP, VAE, UNET] = [
  v.parse(clipConfig, CONFIGS.image_encoder),
  v.parse(vaeConfig, CONFIGS.vae),
  v.parse(unetConfig, CONFIGS.unet),
];

/**
 * Makes the folder; its files are holes, so they take neither the time nor the space of 9 GB on a disk.
 * @returns where it is, and what removes it
 */
export function makeFullSize(): { folder: string; remove(): void } {
  const folder = mkdtempSync(join(tmpdir(), 'full-size-svd-'));
  cpSync(SMALL_SVD, folder, { recursive: true, filter: (path) => !path.endsWith('.safetensors') });
  const network = (name: string, file: string, config: object, graphs: ((weights: SafeTensors) => Graph)[]) => {
    mkdirSync(join(folder, name), { recursive: true });
    // The small model's other values. Its 1.0 would become 1, which transformers refuses.
    const official = { ...smallConfig(name), initializer_factor: undefined, ...config };
    writeFileSync(join(folder, name, 'config.json'), JSON.stringify(official));
    writeHoles(join(folder, name, `${file}.safetensors`), graphs);
  };
  network('image_encoder', 'model', CLIP, [(weights) => clipVision(weights, CLIP)]);
  network('vae', 'diffusion_pytorch_model', VAE, [
    (weights) => vaeEncoder(weights, VAE, { B: 1, H: 64, W: 64 }),
    (weights) => vaeDecoder(weights, VAE, { T: 1, h: 8, w: 8 }),
  ]);
  network('unet', 'diffusion_pytorch_model', UNET, [(weights) => unet(weights, UNET, { B: 1, T: 1, h: 8, w: 8 })]);
  return { folder, remove: () => rmSync(folder, { recursive: true }) };
}

const smallConfig = (name: string) => JSON.parse(readFileSync(join(SMALL_SVD, name, 'config.json'), 'utf8'));

/** A safetensors file of the tensors that the graphs ask for. */
function writeHoles(path: string, graphs: ((weights: SafeTensors) => Graph)[]) {
  const shapes = new Map<string, readonly number[]>();
  const recorder: SafeTensors = {
    folder: dirname(path),
    name: basename(path),
    get(tensor, shape) {
      shapes.set(tensor, shape);
      return { type: 'float32', shape: [...shape], offset: 0, length: bytesOf(shape) };
    },
  };
  for (const graph of graphs) graph(recorder);
  // Attention to a single key needs neither query nor key; diffusers loads them all the same.
  for (const [tensor, [C]] of [...shapes]) {
    const [, block] = /^(.*)\.attn2\.to_v\.weight$/.exec(tensor) ?? [];
    if (block === undefined) continue;
    shapes.set(`${block}.attn2.to_q.weight`, [C!, C!]).set(`${block}.attn2.to_k.weight`, shapes.get(tensor)!);
    for (const part of ['weight', 'bias']) shapes.set(`${block}.norm2.${part}`, [C!]);
  }
  let end = 0;
  const header: Record<string, object> = {};
  for (const [tensor, shape] of shapes) {
    header[tensor] = { dtype: 'F32', shape, data_offsets: [end, end + bytesOf(shape)] };
    end += bytesOf(shape);
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Math.ceil(text.length / 8) * 8; // of the header, so that the tensors are aligned
  const prefix = Buffer.alloc(8 + length, ' ');
  prefix.writeBigUInt64LE(BigInt(length));
  text.copy(prefix, 8);
  writeFileSync(path, prefix);
  truncateSync(path, prefix.length + end);
}

const bytesOf = (shape: readonly number[]) => FLOAT * shape.reduce((product, size) => product * size, 1);
