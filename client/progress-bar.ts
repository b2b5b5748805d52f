import type { WriteStream } from 'node:tty';
import { CLEAR_LINE, formatBar } from '../core/format.ts';
import type { PresentedTask } from '../core/responses.ts';

/** A task's progress in one line of a terminal; where the output is no terminal, a line for each stage. */
export function progressBar(out: Pick<WriteStream, 'isTTY' | 'write'>) {
  const start = Date.now();
  let lastStage = '';

  return {
    show({ status, stage, step, steps, progress, eta_seconds }: PresentedTask) {
      const name = stage ?? status;
      if (!out.isTTY) {
        if (name !== lastStage) out.write(`${name} …\n`);
        lastStage = name;
        return;
      }
      const count = step === undefined ? '' : ` ${step}/${steps}`;
      const left = eta_seconds === undefined ? '' : `  about ${eta_seconds} s left`;
      out.write(`${CLEAR_LINE}${formatBar(progress)}  ${name}${count}${left}`);
    },

    end({ status }: PresentedTask) {
      const seconds = ((Date.now() - start) / 1000).toFixed(1);
      out.write(`${out.isTTY ? CLEAR_LINE : ''}${status} after ${seconds} s\n`);
    },
  };
}
