import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { hasGpu, skipped } from '../../../test/support/gpu.ts';
import { chooseDevice, type DeviceChoice } from '../../onnx/device.ts';
import { providerFolder } from '../../onnx/provider.ts';
import { openWorker } from '../../worker.ts';
import { inSinglePrecision, SMALL_SVD } from '../testdata/reference.ts';
import { examineDevice } from './examine-device.ts';

const folder = mkdtempSync(join(tmpdir(), 'examine-device-'));
afterAll(() => rmSync(folder, { recursive: true }));

const BASE = { ...process.env, DATA_DIR: folder, MODEL_DIR: SMALL_SVD, CUDA_VISIBLE_DEVICES: '-1' };

const choose = (wanted: DeviceChoice, env: NodeJS.ProcessEnv, silence?: number) =>
  chooseDevice(wanted, (device, options) => examineDevice(device, { ...options, env, silence }));

test('a device that passes the self-check is found, and after one that computes wrong numbers auto takes the next', async () => {
  const right = await examineDevice('cpu', { acceptSlow: false, env: BASE });
  expect(right).toMatchObject({ device: 'cpu', name: 'processor' });

  const model = join(folder, 'wrong');
  inSinglePrecision(model, (tensor, values) => {
    if (tensor === 'vision_model.post_layernorm.bias') values[0]! += 0.1;
  });
  // The processor in place of each GPU.
  const chosen = await chooseDevice('auto', (_, options) => examineDevice('cpu', { ...options, env: BASE, model }));
  const fault = 'cpu on the processor computes wrong numbers: clip has \\d+ dB, and 90 are needed';
  expect(chosen).toMatchObject({ device: 'cpu', reason: expect.stringMatching(new RegExp(`^${fault}; ${fault}$`)) });
});

/** A driver whose file was cut off. Loading it raises SIGBUS. */
function crashingDriver(): string {
  const [library, manifest] = [join(folder, 'cut-off.so'), join(folder, 'crashing.json')];
  writeFileSync(library, readFileSync(join(providerFolder, 'libonnxruntime.so.1')).subarray(0, 4096));
  const ICD = { library_path: library, api_version: '1.3.0' };
  writeFileSync(manifest, JSON.stringify({ file_format_version: '1.0.0', ICD }));
  return manifest;
}

/** A driver whose description never comes. Reading it waits for ever. */
function hangingDriver(): string {
  const manifest = join(folder, 'hanging.json');
  execFileSync('mkfifo', [manifest]);
  return manifest;
}

describe.skipIf(!hasGpu)(`where Vulkan’s driver is broken${skipped}`, () => {
  test('one that crashes is an obstacle: auto takes the processor, and a worker that wants WebGPU ends', async () => {
    const env = { ...BASE, VK_DRIVER_FILES: crashingDriver() };
    const [auto, worker] = await Promise.allSettled([choose('auto', env), openWorker({ ...env, DEVICE: 'webgpu' })]);
    const reason = expect.stringMatching(/CUDA.*; WebGPU’s driver crashed \(SIGBUS\)$/);
    expect(auto).toMatchObject({ value: { device: 'cpu', reason } });
    expect(worker).toMatchObject({ reason: new Error('DEVICE is webgpu, but WebGPU’s driver crashed (SIGBUS)') });
  });

  test('so is one that never answers', async () => {
    const env = { ...BASE, VK_DRIVER_FILES: hangingDriver() };
    const [auto, named] = await Promise.allSettled([choose('auto', env, 1500), choose('webgpu', env, 1500)]);
    const obstacle = 'WebGPU’s driver did not answer within 1.5 s';
    expect(auto).toMatchObject({ value: { device: 'cpu', reason: expect.stringContaining(`; ${obstacle}`) } });
    expect(named).toMatchObject({ reason: new Error(`DEVICE is webgpu, but ${obstacle}`) });
  });
});
