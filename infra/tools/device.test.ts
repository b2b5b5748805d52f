import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { inSinglePrecision } from '../../handler/models/testdata/reference.ts';
import { type DeviceIo, main } from './device.ts';
import type { FullReport } from './device-report.ts';

const folder = mkdtempSync(join(tmpdir(), 'device-test-'));
afterAll(() => rmSync(folder, { recursive: true }));

async function run(args: string[], io: Partial<DeviceIo> = {}) {
  let [out, err] = ['', ''];
  const status = await main(args, {
    env: {},
    out: { write: (text: string) => (out += text) },
    err: { write: (text: string) => (err += text) },
    ...io,
  });
  return { status, out, err };
}

test('a device that computes wrong numbers fails, and the rest of it is measured all the same', async () => {
  inSinglePrecision(folder, (tensor, values) => {
    if (tensor === 'vision_model.post_layernorm.bias') values[0]! += 0.1;
  });
  const { status, out } = await run(['--device', 'cpu', '--json'], { smallModel: folder });
  expect(status).toBe(1);
  const { devices, auto }: FullReport = JSON.parse(out);
  expect(auto).toBe(undefined); // that needs the other devices
  expect(Object.keys(devices)).toEqual(['cpu']);
  const { checks, ...cpu } = devices.cpu!;
  expect(cpu).toEqual({
    usable: false,
    obstacle: expect.stringMatching(
      /^cpu on the processor computes wrong numbers: clip has \d+ dB, and 90 are needed$/,
    ),
    name: 'processor',
    memory_bytes: expect.any(Number),
    product_gflops: expect.any(Number),
    block: expect.objectContaining({ precision: 'single', ms: expect.any(Number), finite: true }),
  });
  expect(checks!.map(({ network, passed }) => [network, passed])).toEqual([
    ['clip', false],
    ['encoder', true],
    ['unet', true],
    ['decoder', true],
  ]);
  for (const { psnr_db, needed_db, passed } of checks!) expect(psnr_db >= needed_db).toBe(passed);
});

test('when the time is up, the benchmark ends with what is missing', async () => {
  const args = ['--device', 'cpu', '--bench', '--width', '128', '--height', '128', '--frames', '1', '--seconds', '1'];
  const { status, out } = await run(args);
  expect(status).toBe(1); // the self-check was not completed
  const { devices, bench, seconds }: FullReport = JSON.parse(out);
  expect(bench).toMatchObject({ device: 'cpu', size: { width: 128, height: 128, frames: 1 } });
  const late = 'the time was up';
  expect(bench!.missing).toEqual({ 'self-check': late, decoder: late, UNet: late });
  expect(devices.cpu).toMatchObject({ usable: false, obstacle: late });
  expect(seconds).toBeGreaterThanOrEqual(1);
  expect(seconds).toBeLessThan(30);
});

test('the text names the obstacle of each device, and what auto takes instead', async () => {
  const env = { DEVICE: 'cuda' }; // which has no program to list GPUs, nor libraries
  const { status, out } = await run(['--seconds', '1'], { env, smallModel: join(folder, 'nowhere') });
  expect(status).toBe(1);
  expect(out).toMatch(/^cuda: \S.*$/m);
  expect(out).toMatch(/\nDEVICE=auto takes cpu: .*; .*\n$/);
});

test.each([
  [['--device', 'tpu'], '--device must be cpu, cuda, webgpu'],
  [['--width', '64'], '--width needs --bench'],
  [['--bench', '--height', '100'], '--height must be a multiple of 64 from 64 to 2048'],
  [['--bench', '--frames', '0'], '--frames must be a whole number from 1 to 100'],
  [['--seconds', 'x'], '--seconds must be a whole number from 1 to 3600'],
  [['all'], 'npm run device: takes no arguments'],
])('%j is wrong usage', async (args, line) => {
  expect(await run(args)).toEqual({ status: 2, out: '', err: `${line}\n` });
});

test('a wrong DEVICE is reported', async () => {
  const { status, err } = await run([], { env: { DEVICE: 'gpu' } });
  expect({ status, err }).toEqual({ status: 1, err: 'DEVICE must be auto, cpu, cuda, webgpu\n' });
});
