/** The program that examineDevice runs. */
import { doTask } from '../../child-program.ts';
import { findDevice, firstLine } from '../../onnx/device.ts';
import type { DeviceAnswer, DeviceTask } from './examine-device.ts';

doTask<DeviceTask, DeviceAnswer>(async ({ device, acceptSlow, model }, send) => {
  try {
    const found = await findDevice(device, { acceptSlow });
    const { checkDevice } = await import('./self-check.ts'); // most machines have no GPU to check
    await checkDevice(found, model, () => send({}));
    await send({ found });
  } catch (error) {
    await send({ obstacle: firstLine(error as Error) });
  }
});
