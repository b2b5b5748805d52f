import { drawLine, formatBar, formatBytes, formatDuration } from '../../core/format.ts';
import { SECOND } from '../../core/time.ts';
import type { CliIo } from './command.ts';

const REDRAW_INTERVAL = 0.1 * SECOND;

/**
 * The progress of a download of several files: a bar over all of them on a terminal, elsewhere a line for each.
 * @param total bytes of all files
 */
export function transferBar(out: CliIo['out'], total: number) {
  const startedAt = Date.now();
  let finished = 0; // bytes of the files that are complete
  let position = 0; // in the current file
  let received = 0; // bytes in this run
  let name = '';
  let drawnAt = 0;

  function draw(label = name) {
    if (!out.isTTY) return;
    drawnAt = Date.now();
    const done = finished + position;
    const speed = (received / Math.max(1, drawnAt - startedAt)) * SECOND;
    const left = speed > 0 ? `  ${formatBytes(speed)}/s  about ${formatDuration((total - done) / speed)} left` : '';
    drawLine(out, `${formatBar(done / total)}  ${label}  ${formatBytes(done)} of ${formatBytes(total)}${left}`);
  }

  return {
    /** @param present how much of the file is there from an earlier run */
    startFile(path: string, size: number, present: number) {
      name = path.split('/')[0]!; // the network: the whole path would be too long for the line
      position = present;
      const note = present > 0 ? `, of which ${formatBytes(present)} are here already` : '';
      if (!out.isTTY) out.write(`${path}  ${formatBytes(size)}${note}\n`);
      draw();
    },
    /** @param next position in the current file; smaller than the last one when the file starts over */
    move(next: number) {
      received += Math.max(0, next - position);
      position = next;
      if (Date.now() - drawnAt >= REDRAW_INTERVAL) draw();
    },
    showChecking: () => draw(`checking ${name}`),
    finishFile() {
      finished += position;
      position = 0;
    },
  };
}
