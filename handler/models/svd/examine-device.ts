/** Finds a GPU and verifies it, in a process of its own: a driver that crashes or hangs there costs the worker only this GPU. */
import { MINUTE, SECOND } from '../../../core/time.ts';
import { runProgram } from '../../child-program.ts';
import { type FoundDevice, requireProvider } from '../../onnx/device.ts';
import type { Device } from '../../onnx/policy.ts';

export interface DeviceTask {
  device: Device;
  /** whether a GPU counts that is slower than the processor */
  acceptSlow: boolean;
  /** folder of the self-check's model; default: the small one that the stored numbers are of */
  model?: string | undefined;
}

/** Empty after each network that has passed the self-check; at last with a device, or with why it can't be used. */
export interface DeviceAnswer {
  found?: FoundDevice;
  obstacle?: string;
}

interface Options extends Omit<DeviceTask, 'device'> {
  env: NodeJS.ProcessEnv;
  /** milliseconds without an answer after which the driver counts as hanging. The first run of a network may compile for a minute. */
  silence?: number | undefined;
}

const PROGRAM = new URL('device-program', import.meta.url);
const DRIVERS = { cpu: 'onnxruntime', cuda: 'CUDA’s driver', webgpu: 'WebGPU’s driver' };

/**
 * For chooseDevice.
 * @returns a device that has passed the self-check
 * @throws Error of one line: why it can't be used
 */
export async function examineDevice(
  device: Device,
  { acceptSlow, model, env, silence = 2 * MINUTE }: Options,
): Promise<FoundDevice> {
  requireProvider(device);
  let last: DeviceAnswer = {};
  const ending = new AbortController();
  const end = () => ending.abort();
  const timer = setTimeout(end, silence);
  const onMessage = (answer: DeviceAnswer) => {
    last = answer;
    if (answer.found || answer.obstacle)
      end(); // drivers also crash and hang while a process exits
    else timer.refresh();
  };
  const task: DeviceTask = { device, acceptSlow, model };
  let status: string | undefined;
  try {
    status = (await runProgram(PROGRAM, task, { env, signal: ending.signal, onMessage })) ?? 'status 0';
  } catch (error) {
    if (!ending.signal.aborted) throw error;
  } finally {
    clearTimeout(timer);
  }
  if (last.found) return last.found;
  const fault = status ? `crashed (${status})` : `did not answer within ${silence / SECOND} s`;
  throw new Error(last.obstacle ?? `${DRIVERS[device]} ${fault}`);
}
