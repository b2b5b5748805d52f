/** `npm run device`: which devices run the networks here, whether they compute right, and how fast they are. */
import { rm } from 'node:fs/promises';
import { readEnvironment } from '../../core/environment.ts';
import { DEVICES } from '../../core/job.ts';
import { createScratchFolder, removeOrphanedScratch } from '../../core/temp-files.ts';
import { SECOND } from '../../core/time.ts';
import { type ChosenDevice, chooseDevice } from '../../handler/onnx/device.ts';
import type { Device } from '../../handler/onnx/policy.ts';
import { WORKER_VARIABLES } from '../../handler/worker.ts';
import { type CliIo, defineCommand, runIfMain, UsageError, type Values } from './command.ts';
import { type Size, STEPS } from './device-measure.ts';
import { measureInProcess, type Outcome, type ProcessOptions } from './device-process.ts';
import { benchOf, type FullReport, formatReport, obstacleOf, reportOf } from './device-report.ts';

export interface DeviceIo extends CliIo {
  /** folder of the small model for the self-check; default: the one that comes with the worker */
  smallModel?: string;
}

const OPTIONS = {
  device: { value: 'NAME', help: `only this one: ${DEVICES.join(', ')} (default: all)` },
  json: { help: 'prints JSON' },
  bench: { help: 'also runs the decoder and the UNet of svd_xt with random weights, and prints JSON' },
  width: { value: 'N', help: 'pixels, with --bench; a multiple of 64 from 64 to 2048 (1024)' },
  height: { value: 'N', help: 'the same (576)' },
  frames: { value: 'N', help: 'with --bench; 1 to 100 (25)' },
  seconds: { value: 'N', help: 'after which it ends with what was measured; 1 to 3600 (220)' },
} as const;

const NOTES = `
The exit status is 1 if the device of --device, else of DEVICE, can't serve. --bench runs on this device, or on the one that
DEVICE=auto takes. It writes random weights into the folder of temporary files: 2.9 GB in half precision, 5.9 GB in single precision.`;

export const main = defineCommand<DeviceIo>(
  'npm run device',
  { '': { help: 'Checks the devices', options: OPTIONS, run } },
  NOTES,
);

async function run(io: DeviceIo, values: Values<typeof OPTIONS>): Promise<number> {
  const { only, size, seconds } = readOptions(values);
  const { DEVICE } = readEnvironment({ DEVICE: WORKER_VARIABLES.DEVICE }, io.env);
  const start = performance.now();
  const stopping = new AbortController();
  const stop = () => stopping.abort();
  for (const signal of STOP_SIGNALS) process.once(signal, stop);
  const optionsOf = (device: Device): ProcessOptions => ({
    env: io.env,
    deadline: start + seconds * SECOND,
    signal: stopping.signal,
    onStep: (step) => values.bench && io.err.write(`${device}: ${step} …\n`),
  });
  try {
    const outcomes = new Map<Device, Outcome>();
    for (const device of only ? [only] : DEVICES) {
      const task = { kind: 'examine', device, model: io.smallModel } as const;
      outcomes.set(device, await measureInProcess(task, optionsOf(device)));
    }
    const auto = only ? undefined : await chooseOf(outcomes);
    const wanted = only ?? (DEVICE === 'auto' ? auto!.device : DEVICE);
    const outcome = outcomes.get(wanted)!;
    const bench =
      values.bench && benchOf(wanted, size, outcome, await measureFullSize(outcome, size, optionsOf(wanted)));
    const report: FullReport = {
      platform: `${process.platform} ${process.arch}, Node ${process.versions.node}`,
      devices: Object.fromEntries([...outcomes].map(([device, outcome]) => [device, reportOf(outcome)])),
      ...(auto && { auto: { device: auto.device, reason: auto.reason } }),
      ...(bench && { bench }),
      seconds: (performance.now() - start) / SECOND,
    };
    const asJson = values.json || values.bench;
    io.out.write(asJson ? `${JSON.stringify(report, null, 2)}\n` : formatReport(report));
    return obstacleOf(outcome) === undefined ? 0 : 1;
  } finally {
    for (const signal of STOP_SIGNALS) process.off(signal, stop);
  }
}

const STOP_SIGNALS = ['SIGINT', 'SIGTERM'] as const;

/** As a worker with DEVICE=auto chooses, from what was measured. */
function chooseOf(outcomes: ReadonlyMap<Device, Outcome>): Promise<ChosenDevice> {
  return chooseDevice('auto', async (device) => {
    const outcome = outcomes.get(device)!;
    const { found } = outcome.measured;
    const obstacle = found?.drawback ?? obstacleOf(outcome);
    if (obstacle !== undefined) throw new Error(obstacle);
    return found!;
  });
}

async function measureFullSize(examined: Outcome, size: Size, options: ProcessOptions): Promise<Outcome> {
  const { found } = examined.measured;
  if (!found) {
    const missing = Object.fromEntries(STEPS['full size'].map((step) => [step, obstacleOf(examined)]));
    return { measured: {}, missing, memory: { resident: null, gpu: null } };
  }
  await removeOrphanedScratch();
  const folder = await createScratchFolder();
  try {
    return await measureInProcess({ kind: 'full size', device: found, size, folder }, options);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** @throws UsageError that names the option and what is allowed */
function readOptions(values: Values<typeof OPTIONS>) {
  const { device, width, height, frames } = values;
  const only = DEVICES.find((name) => name === device);
  if (device !== undefined && !only) throw new UsageError(`--device must be ${DEVICES.join(', ')}`);
  const given = Object.keys({ width, height, frames }).find((name) => name in values);
  if (given && !values.bench) throw new UsageError(`--${given} needs --bench`);
  const size = {
    width: readNumber('width', width, 1024, [64, 2048], 64),
    height: readNumber('height', height, 576, [64, 2048], 64),
    frames: readNumber('frames', frames, 25, [1, 100]),
  };
  return { only, size, seconds: readNumber('seconds', values.seconds, 220, [1, 3600]) };
}

function readNumber(option: string, text: string | undefined, usual: number, [from, to]: [number, number], step = 1) {
  if (text === undefined) return usual;
  const value = /^\d{1,4}$/.test(text) ? Number(text) : 0;
  if (value >= from && value <= to && value % step === 0) return value;
  const kind = step === 1 ? 'a whole number' : `a multiple of ${step}`;
  throw new UsageError(`--${option} must be ${kind} from ${from} to ${to}`);
}

await runIfMain(import.meta.url, main);
