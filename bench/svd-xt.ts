/** svd_xt for benchmarks, where the real weights can't be had: the official layout, every weight zero. */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Graph } from '../handler/onnx/graph.ts';
import { clipVision } from '../handler/onnx/image-encoder.ts';
import type { SafeTensors } from '../handler/onnx/safetensors.ts';
import { unet } from '../handler/onnx/unet.ts';
import { vaeDecoder, vaeEncoder } from '../handler/onnx/vae.ts';
import { SVD_XT, safeTensorsHeader, shapesOf } from '../infra/tools/svd-xt-weights.ts';
import { SMALL_SVD } from './peers.ts';

/** Every layer of svd_xt; those of the UNet and of CLIP at a fifth of their width, those of the VAE at a quarter. */
export const NARROW_SVD_XT: typeof SVD_XT = {
  clip: { ...SVD_XT.clip, hidden_size: 256, intermediate_size: 1024, num_attention_heads: 4 },
  vae: { ...SVD_XT.vae, block_out_channels: [32, 64, 128, 128] }, // a fifth would not divide into the norms' 32 groups
  unet: { ...SVD_XT.unet, block_out_channels: [64, 128, 256, 256], num_attention_heads: [1, 2, 4, 4] },
};

/**
 * Makes the folder; its files are holes, so they take neither the time nor the space of 9 GB on a disk.
 * @returns where it is, and what removes it
 */
export function makeSvdXt({ clip: CLIP, vae: VAE, unet: UNET } = SVD_XT): { folder: string; remove(): void } {
  const folder = mkdtempSync(join(tmpdir(), 'svd-xt-'));
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
  const shapes = shapesOf(...graphs);
  // Attention to a single key needs neither query nor key; diffusers loads them all the same.
  for (const [tensor, [C]] of [...shapes]) {
    const [, block] = /^(.*)\.attn2\.to_v\.weight$/.exec(tensor) ?? [];
    if (block === undefined) continue;
    shapes.set(`${block}.attn2.to_q.weight`, [C!, C!]).set(`${block}.attn2.to_k.weight`, shapes.get(tensor)!);
    for (const part of ['weight', 'bias']) shapes.set(`${block}.norm2.${part}`, [C!]);
  }
  const { header, fileBytes } = safeTensorsHeader(shapes, 'float32');
  writeFileSync(path, header);
  truncateSync(path, fileBytes);
}
