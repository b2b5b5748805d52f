import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { chooseDevice } from '../../onnx/device.ts';
import { inSinglePrecision } from '../testdata/reference.ts';
import { checkDevice, checkNetworks, type NetworkCheck } from './self-check.ts';

const folder = mkdtempSync(join(tmpdir(), 'self-check-'));
afterAll(() => rmSync(folder, { recursive: true }));

test('the processor, whose networks equal diffusers’, gives the stored numbers', async () => {
  const checks: NetworkCheck[] = [];
  for await (const check of checkNetworks({ device: 'cpu' })) checks.push(check);
  expect(checks.map(({ network }) => network)).toEqual(['clip', 'encoder', 'unet', 'decoder']);
  for (const { network, psnr } of checks) expect(psnr, network).toBeGreaterThan(110);
});

describe.each([
  ['image_encoder', 'vision_model.post_layernorm.bias', 'clip'],
  ['unet', 'up_blocks.3.resnets.0.spatial_res_block.norm1.weight', 'unet'],
])('a device with one wrong factor in %s, %s', (_, wrong, network) => {
  test(`fails with the name of ${network}`, async () => {
    const model = join(folder, network);
    inSinglePrecision(model, (tensor, values) => {
      if (tensor === wrong) values[0]! += 0.1;
    });
    const failing = checkDevice({ device: 'cpu', name: 'processor' }, model);
    await expect(failing).rejects.toThrow(
      new RegExp(`^cpu on the processor computes wrong numbers: ${network} has \\d+ dB`),
    );
  });
});

test('a wanted GPU that is missing or fails its check is an error, and with auto the next device is taken', async () => {
  await expect(chooseDevice('cuda', async () => {})).rejects.toThrow(/^DEVICE is cuda, but .*CUDA/);
  const chosen = await chooseDevice('auto', async ({ device }) => {
    throw new Error(`${device} computes wrong numbers`);
  });
  expect(chosen.device).toBe('cpu');
  expect(chosen.reason).toMatch(/CUDA.*; .*(WebGPU|webgpu)/);
});
