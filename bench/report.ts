/** What a benchmark reports: rows of one table, each with its spread, its peer in the same run, and an aim. */
import { cpus } from 'node:os';

export interface Row {
  what: string;
  unit: string;
  /** median over the rounds */
  ours: number;
  /** the peer's name */
  peer?: string | undefined;
  /** median over the rounds */
  theirs?: number;
  /** ours / theirs of the same round */
  ratio?: Spread;
  /** of ours alone */
  spread: Spread;
  aim?: Aim | undefined;
}

export type Spread = [median: number, lowest: number, highest: number];

/** A bound of the ratio, or of our own figure. */
export interface Aim {
  of: 'ratio' | 'ours';
  most?: number;
  least?: number;
}

/** One round's figures. */
export interface Pair {
  ours: number;
  theirs?: number;
}

export interface Report {
  /** one sentence: what was measured, and with which settings */
  how: string;
  rows: Row[];
}

/** A row of what was measured in each round; rounds without a peer, or with a peer's figure of 0, have no ratio. */
export function row(what: string, unit: string, rounds: Pair[], { peer, aim }: Pick<Row, 'peer' | 'aim'> = {}): Row {
  const ours = rounds.map((round) => round.ours);
  const paired = rounds.flatMap(({ ours, theirs }) => (theirs ? [{ theirs, ratio: ours / theirs }] : []));
  return {
    what,
    unit,
    ours: median(ours),
    spread: spread(ours),
    aim,
    ...(paired.length > 0 && {
      peer,
      theirs: median(paired.map(({ theirs }) => theirs)),
      ratio: spread(paired.map(({ ratio }) => ratio)),
    }),
  };
}

/** A figure of a process's life. */
export interface Figure<Life> {
  what: keyof Life;
  label: string;
  unit: string;
  aim?: Aim;
}

/** A row of each figure, over the lives of our process and the peer's. */
export const figureRows = <Life extends Record<keyof Life, number>>(
  figures: Figure<Life>[],
  lives: { ours: Life; theirs?: Life | undefined }[],
  peer: string,
) =>
  figures.map(({ what, label, unit, aim }) => {
    const pairs = lives.map(({ ours, theirs }) => ({ ours: ours[what], ...(theirs && { theirs: theirs[what] }) }));
    return row(label, unit, pairs, { peer, aim });
  });

export function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

const spread = (values: number[]): Spread => [median(values), Math.min(...values), Math.max(...values)];

/** Whether the aim is met; undefined where there is none, or no peer to measure it by. */
export function isMet({ aim, ours, ratio }: Row): boolean | undefined {
  const value = aim?.of === 'ours' ? ours : ratio?.[0];
  if (!aim || value === undefined) return undefined;
  return value <= (aim.most ?? Number.POSITIVE_INFINITY) && value >= (aim.least ?? Number.NEGATIVE_INFINITY);
}

/** Three significant digits, or all digits of a larger whole part. */
const format = (value: number) => (Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3))));

/** A Markdown table. */
export function table(rows: Row[]): string {
  const cells = rows.map((row) => {
    const { what, unit, ours, peer, theirs, ratio, spread, aim } = row;
    const met = isMet(row);
    const [, lowest, highest] = ratio ?? spread;
    const bound = aim && (aim.most === undefined ? `≥ ${aim.least}` : `≤ ${aim.most}`);
    return [
      what,
      `${format(ours)} ${unit}`.trim(),
      theirs === undefined ? '–' : `${format(theirs)} ${unit}`.trim(),
      peer ?? '–',
      ratio ? format(ratio[0]) : '–',
      lowest === highest ? '–' : `${format(lowest)}–${format(highest)}`,
      bound ? `${bound}${aim.of === 'ours' ? ` ${unit}`.trimEnd() : ''}` : '–',
      met === undefined ? '–' : met ? 'met' : '**missed**',
    ];
  });
  const head = ['what', 'ours', 'peer', '', 'ours / peer', 'spread', 'aim', ''];
  return [head, head.map(() => '---'), ...cells].map((line) => `| ${line.join(' | ')} |`).join('\n');
}

/** The machine it was measured on. */
export const machine = { cpu: cpus()[0]?.model ?? 'unknown', cores: cpus().length, node: process.version };
export const machineLine = `${machine.cpu}, ${machine.cores} cores, Node ${machine.node}`;
