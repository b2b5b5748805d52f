import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { InferenceSession } from 'onnxruntime-node';
import { afterAll, describe, expect, test, vi } from 'vitest';
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

test('a device that can’t run a network fails in one line with its name, and its session is closed', async () => {
  const create = InferenceSession.create.bind(InferenceSession) as (...all: unknown[]) => Promise<InferenceSession>;
  const release = vi.fn();
  const spy = vi.spyOn(InferenceSession, 'create').mockImplementation((async (...all: unknown[]) => {
    const session = await create(...all);
    session.run = () => Promise.reject(new Error('CUDA failure 700: an illegal memory access\n  at line 2'));
    session.release = release;
    return session;
  }) as typeof InferenceSession.create);
  const failing = checkDevice({ device: 'cpu', name: 'processor' });
  await expect(failing).rejects.toThrow(/^cpu can’t run clip: CUDA failure 700: an illegal memory access$/);
  expect(release).toHaveBeenCalledTimes(1);
  spy.mockRestore();
});
