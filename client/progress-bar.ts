import type { WriteStream } from 'node:tty';
import { CLEAR_LINE, drawLine, formatBar } from '../core/format.ts';
import type { Task } from './types.ts';

/** `columns` is the width of a terminal. */
export type ProgressOutput = Pick<WriteStream, 'isTTY' | 'write'> & { columns?: number };

/** A task's progress in one line of a terminal; a line for each stage where the output is no terminal. */
export function progressBar(out: ProgressOutput) {
  const start = Date.now();
  let lastStage = '';

  return {
    show({ status, stage, step, steps, progress, eta_seconds }: Task) {
      const name = stage ?? status;
      const count = step === undefined ? '' : ` ${step}/${steps}`;
      const left = eta_seconds === undefined ? '' : `  about ${eta_seconds} s left`;
      if (out.isTTY) drawLine(out, `${formatBar(progress)}  ${name}${count}${left}`);
      else if (name !== lastStage) out.write(`${name} …\n`);
      lastStage = name;
    },

    end({ status }: Task) {
      const seconds = ((Date.now() - start) / 1000).toFixed(1);
      out.write(`${out.isTTY ? CLEAR_LINE : ''}${status} after ${seconds} s\n`);
    },
  };
}
