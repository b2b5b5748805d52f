/** Command lines on which every parameter of a request is a flag: read, and explained. */
import { parameterRows } from '../core/parameter-schema.ts';
import { parameters } from '../core/parameters.ts';
import { describeUnknownName } from '../core/request.ts';

const USUAL = { maxFrames: 100, maxFps: 120 };
const PARAMETERS = Object.keys(parameters(USUAL, 'svd'));

/** A command line that can't be understood. Its message is for who wrote it. */
export class WrongUsage extends Error {}

export interface Flags<V extends string, S extends string> {
  /** what is no flag, in order */
  words: string[];
  /** of the program itself: flags with a value */
  values: Partial<Record<V, string>>;
  /** flags without one */
  switches: Set<S>;
  /** parameters of the request, as text; names that are none as well */
  fields: [name: string, text: string][];
}

/**
 * Reads `--NAME VALUE`, `--NAME=VALUE` and `--SWITCH`, and words between. Parameters may be written with dashes.
 * @throws WrongUsage a flag without its value or given twice, or a switch with one
 */
export function readFlags<V extends string, S extends string>(
  args: string[],
  own: { values: readonly V[]; switches: readonly S[] },
): Flags<V, S> {
  const flags: Flags<V, S> = { words: [], values: {}, switches: new Set(), fields: [] };
  for (let i = 0; i < args.length; i++) {
    const [, name, inline] = /^--([^=]+)(?:=(.*))?$/s.exec(args[i]!) ?? [];
    if (name === undefined) {
      flags.words.push(args[i]!);
    } else if ((own.switches as readonly string[]).includes(name)) {
      if (inline !== undefined) throw new WrongUsage(`--${name} takes no value`);
      flags.switches.add(name as S);
    } else {
      const value = inline ?? args[++i];
      if (value === undefined) throw new WrongUsage(`--${name} needs a value`);
      const parameter = name.replaceAll('-', '_');
      if (name in flags.values || flags.fields.some(([other]) => other === parameter))
        throw new WrongUsage(`--${name}: given more than once`);
      if ((own.values as readonly string[]).includes(name)) flags.values[name as V] = value;
      else flags.fields.push([parameter, value]);
    }
  }
  return flags;
}

/** @throws WrongUsage every flag that is neither a parameter nor one of `own`, with the nearest known */
export function checkNames(fields: Flags<string, string>['fields'], own: readonly string[]): void {
  const known = [...PARAMETERS, ...own];
  const complaints = fields
    .filter(([name]) => !PARAMETERS.includes(name))
    .map(([name]) => `--${name}: ${describeUnknownName(name, known).replace('mean ', 'mean --')}`);
  if (complaints.length > 0) throw new WrongUsage(complaints.join('\n'));
}

const WIDTH = 110; // characters

/** A few lines for each parameter. */
export function parameterHelp(): string {
  const indent = Math.max(...PARAMETERS.map((name) => name.length)) + 6;
  const lines = (text: string) => text.match(new RegExp(`\\S.{0,${WIDTH - indent - 1}}(?=\\s|$)`, 'g'))!;
  return parameterRows(USUAL)
    .map(({ name, range, defaultValue, description }) => {
      const values = [range, defaultValue && `default ${defaultValue}`].filter(Boolean).join('; ');
      const said = [...lines(description), ...lines(values)].join(`\n${' '.repeat(indent)}`);
      return `  --${name}`.padEnd(indent) + said;
    })
    .join('\n');
}
