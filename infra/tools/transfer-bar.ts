import { SECOND } from '../../core/time.ts';

const BAR_EVERY = 0.1 * SECOND;
const BAR_WIDTH = 28; // characters

/** A terminal's bar over all files; elsewhere a line for each. */
export function transferBar(out: { write(text: string): unknown; isTTY?: boolean }) {
  const clear = out.isTTY ? '\r\x1b[K' : '';
  let [total, finished, position] = [0, 0, 0]; // bytes
  let [name, fetched, began, drawn] = ['', 0, 0, 0];

  function draw(doing = name) {
    if (!out.isTTY) return;
    drawn = Date.now();
    const at = finished + position;
    const filled = Math.round((at / total) * BAR_WIDTH);
    const bar = '█'.repeat(filled) + '░'.repeat(BAR_WIDTH - filled);
    const speed = (fetched / Math.max(1, drawn - began)) * SECOND;
    const left = speed > 0 ? `  ${inWords(speed)}/s  about ${duration((total - at) / speed)} left` : '';
    out.write(
      `${clear}${bar} ${String(Math.floor((at / total) * 100)).padStart(3)} %  ${doing}  ${inWords(at)} of ${inWords(total)}${left}`,
    );
  }

  return {
    begin(bytes: number) {
      total = bytes;
      began = Date.now();
    },
    file(path: string, size: number, before: number) {
      name = path.split('/')[0]!; // the network; a whole path would not fit beside the bar
      position = before;
      if (!out.isTTY)
        out.write(`${path}  ${inWords(size)}${before > 0 ? `, of which ${inWords(before)} are here already` : ''}\n`);
      draw();
    },
    /** @param now in the file; it falls when the file is begun anew */
    moved(now: number) {
      fetched += Math.max(0, now - position);
      position = now;
      if (Date.now() - drawn >= BAR_EVERY) draw();
    },
    checking: () => draw(`checking ${name}`),
    done(size: number) {
      finished += size;
      position = 0;
    },
    end() {
      out.write(clear);
    },
    say(text: string) {
      out.write(`${clear}${text}\n`);
    },
  };
}

export function inWords(bytes: number): string {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(2)} GB`;
  if (bytes >= 1e6) return `${(bytes / 1e6).toFixed(1)} MB`;
  return bytes >= 1e3 ? `${(bytes / 1e3).toFixed(1)} kB` : `${Math.round(bytes)} bytes`;
}

const duration = (seconds: number) => (seconds < 100 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} min`);
