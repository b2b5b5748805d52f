/** Command lines on which every parameter of a request is a flag: parsing and help. */
import { describeUnknownParameter } from '../core/unknown-names.ts';
import ROWS from './parameters.json' with { type: 'json' };

const PARAMETERS = ROWS.map(({ name }) => name);
const HELP_WIDTH = 110; // characters

/** A wrong command line. Its message is for the user. */
export class UsageError extends Error {}

export interface Flags<V extends string, S extends string> {
  positionals: string[];
  /** the program's own flags with a value */
  values: Partial<Record<V, string>>;
  /** the program's own flags without one */
  switches: Set<S>;
  /** all other flags: parameters of the request, as text */
  fields: [name: string, text: string][];
}

/**
 * Parses `--NAME VALUE`, `--NAME=VALUE`, `--SWITCH` and positionals. Dashes may stand for the underscores of parameters.
 * @throws UsageError a flag without its value or given twice, or a switch with a value
 * @example
 * parseFlags(['watch', 'ID', '--out=a.mp4', '--num-cols', '2'], { values: ['out'], switches: ['json'] });
 * // positionals: ['watch', 'ID'], values: { out: 'a.mp4' }, fields: [['num_cols', '2']]
 */
export function parseFlags<V extends string, S extends string>(
  args: string[],
  own: { values: readonly V[]; switches: readonly S[] },
): Flags<V, S> {
  const flags: Flags<V, S> = { positionals: [], values: {}, switches: new Set(), fields: [] };
  for (let i = 0; i < args.length; i++) {
    const [, name, inline] = /^--([^=]+)(?:=(.*))?$/s.exec(args[i]!) ?? [];
    if (name === undefined) {
      flags.positionals.push(args[i]!);
    } else if ((own.switches as readonly string[]).includes(name)) {
      if (inline !== undefined) throw new UsageError(`--${name} takes no value`);
      flags.switches.add(name as S);
    } else {
      const value = inline ?? args[++i];
      if (value === undefined) throw new UsageError(`--${name} needs a value`);
      const [field, text] = readField(name, value);
      if (Object.hasOwn(flags.values, name) || flags.fields.some(([other]) => other === field))
        throw new UsageError(`--${name}: given more than once`);
      if ((own.values as readonly string[]).includes(name)) flags.values[name as V] = value;
      else flags.fields.push([field, text]);
    }
  }
  return flags;
}

/** `--metadata KEY=VALUE` is the field `metadata[KEY]` of a form, and may be repeated for other keys. @throws UsageError */
function readField(name: string, value: string): [field: string, text: string] {
  if (name !== 'metadata') return [name.replaceAll('-', '_'), value];
  const [, key, text] = /^([^=]+)=(.*)$/s.exec(value) ?? [];
  if (key === undefined) throw new UsageError('--metadata: must be KEY=VALUE, and may be repeated');
  return [`metadata[${key}]`, text!];
}

/** The flag of a field: that of `metadata[order]` is `metadata`. */
export const flagOf = (field: string) => field.replace(/^metadata\[.*/s, 'metadata');

/** @throws UsageError for every field that is no parameter, with the nearest of parameters and `own` flags */
export function checkNames(fields: Flags<string, string>['fields'], own: readonly string[]): void {
  const known = [...PARAMETERS, ...own];
  const problems = fields
    .filter(([name]) => !PARAMETERS.includes(flagOf(name)))
    .map(([name]) => `--${name}: ${describeUnknownParameter(name, known).replace('mean ', 'mean --')}`);
  if (problems.length > 0) throw new UsageError(problems.join('\n'));
}

/** Each parameter with its description, range and default, in lines of at most HELP_WIDTH. */
export function parameterHelp(): string {
  const indent = Math.max(...PARAMETERS.map((name) => name.length)) + 6;
  const wrap = (text: string) => text.match(new RegExp(`\\S.{0,${HELP_WIDTH - indent - 1}}(?=\\s|$)`, 'g'))!;
  return ROWS.map(({ name, range, defaultValue, description }) => {
    const values = [range, defaultValue && `default ${defaultValue}`].filter(Boolean).join('; ');
    const lines = [...wrap(description), ...wrap(values)].join(`\n${' '.repeat(indent)}`);
    return `  --${name}`.padEnd(indent) + lines;
  }).join('\n');
}
