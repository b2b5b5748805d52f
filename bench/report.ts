/** What a benchmark prints: rows of one table, each with its spread, its peer in the same run and what is aimed at. */
import { execFile } from 'node:child_process';
import { cpus, totalmem } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { median } from './statistics.ts';

export interface Row {
  what: string;
  unit: string;
  /** medians over the rounds */
  ours: number;
  /** what it is measured beside, by name */
  peer?: string;
  theirs?: number;
  /** ours / theirs of the same round */
  ratio?: Spread;
  /** of ours alone */
  spread: Spread;
  aim?: Aim;
}

export type Spread = [median: number, lowest: number, highest: number];

/** A bound of the ratio, or of our own figure. */
export interface Aim {
  of: 'ratio' | 'ours';
  most?: number;
  least?: number;
}

export interface Pair {
  ours: number;
  theirs?: number;
}

/** A row of what was measured in each round; of rounds without a peer only ours counts. */
export function row(what: string, unit: string, rounds: Pair[], { peer, aim }: { peer?: string; aim?: Aim } = {}): Row {
  const ours = rounds.map((round) => round.ours);
  const paired = rounds.flatMap(({ ours, theirs }) => (theirs ? [{ theirs, ratio: ours / theirs }] : [])); // of 0 there is no ratio
  return {
    what,
    unit,
    ours: median(ours),
    spread: spread(ours),
    ...(aim && { aim }),
    ...(paired.length > 0 && {
      peer,
      theirs: median(paired.map(({ theirs }) => theirs)),
      ratio: spread(paired.map(({ ratio }) => ratio)),
    }),
  };
}

function spread(values: number[]): Spread {
  return [median(values), Math.min(...values), Math.max(...values)];
}

/** After what ran before: its threads look out for work for a while, and take the processor from whoever is next. */
export const settle = () => delay(200);

/**
 * Measures ours and the peer alternately, after one round that only warms up.
 * @param theirs undefined where there is no peer
 */
export async function byTurns(
  rounds: number,
  ours: () => Promise<number>,
  theirs?: () => Promise<number>,
): Promise<Pair[]> {
  const pairs: Pair[] = [];
  for (let round = 0; round <= rounds; round++) {
    const pair: Pair = { ours: Number.NaN };
    const first = async () => {
      await settle();
      pair.ours = await ours();
    };
    const second = async () => {
      await settle();
      if (theirs) pair.theirs = await theirs();
    };
    for (const turn of round % 2 ? [first, second] : [second, first]) await turn();
    if (round > 0) pairs.push(pair);
  }
  return pairs;
}

/** @returns milliseconds */
export async function timed(work: () => unknown): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

/** Whether the aim is met; undefined where there is none, or nothing to measure it by. */
export function isMet({ aim, ours, ratio }: Row): boolean | undefined {
  const value = aim?.of === 'ours' ? ours : ratio?.[0];
  if (!aim || value === undefined) return undefined;
  return value <= (aim.most ?? Number.POSITIVE_INFINITY) && value >= (aim.least ?? Number.NEGATIVE_INFINITY);
}

/** Three figures; more where the whole part has more. */
const number = (value: number) => (Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3))));

/** A Markdown table. */
export function table(rows: Row[]): string {
  const cells = rows.map((row) => {
    const { what, unit, ours, peer, theirs, ratio, spread, aim } = row;
    const met = isMet(row);
    const [, lowest, highest] = ratio ?? spread;
    const bound = aim && (aim.most === undefined ? `≥ ${aim.least}` : `≤ ${aim.most}`);
    return [
      what,
      `${number(ours)} ${unit}`.trim(),
      theirs === undefined ? '–' : `${number(theirs)} ${unit}`.trim(),
      peer ?? '–',
      ratio ? number(ratio[0]) : '–',
      lowest === highest ? '–' : `${number(lowest)}–${number(highest)}`,
      bound ? `${bound}${aim.of === 'ours' ? ` ${unit}`.trimEnd() : ''}` : '–',
      met === undefined ? '–' : met ? 'met' : '**missed**',
    ];
  });
  const head = ['what', 'ours', 'peer', '', 'ours / peer', 'spread', 'aim', ''];
  return [head, head.map(() => '---'), ...cells].map((line) => `| ${line.join(' | ')} |`).join('\n');
}

/** Where it was measured. */
export const machine = {
  cpu: cpus()[0]?.model ?? 'unknown',
  cores: cpus().length,
  memory_gib: Math.round(totalmem() / 2 ** 30),
  node: process.version,
};

/** Prints the rows: as JSON where the command line says `--json`, else as a table under a sentence on how it was measured. */
export function tell(how: string, rows: Row[]) {
  if (process.argv.includes('--json')) console.log(JSON.stringify({ how, rows }));
  else console.log(`${how}\n${machine.cpu}, ${machine.cores} cores, Node ${machine.node}\n\n${table(rows)}`);
}

/** Says how it goes, beside the rows on standard output. */
export const say = (text: string) => console.error(text);

/**
 * A Python with these packages, installed once.
 * @returns its path; undefined, and a word on standard error, where that is impossible
 */
export async function python(...packages: string[]): Promise<string | undefined> {
  try {
    const script = fileURLToPath(new URL('../test/support/python.sh', import.meta.url));
    const { stdout } = await promisify(execFile)('bash', [script, ...packages]);
    return stdout.trim();
  } catch (error) {
    say(`skipped: the peer ${packages[0]} can’t be installed (${(error as Error).message.trim().split('\n').at(-1)})`);
    return undefined;
  }
}
