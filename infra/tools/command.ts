/**
 * The skeleton of the operator's commands (`npm run keys`, `bucket`, `models`, `cuda`, `deploy`). A command declares its actions with
 * their options and help once; `defineCommand` adds argument parsing, the usage text, exit status and error lines.
 */
import { existsSync, realpathSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { watchOutput } from '../../core/standard-output.ts';

/** What a command reads and writes; tests pass their own. */
export interface CliIo {
  env: NodeJS.ProcessEnv;
  out: { write(text: string): unknown; isTTY?: boolean; columns?: number };
  err: { write(text: string): unknown };
}

/** A wrong command line. The message names the option or argument and what is allowed. */
export class UsageError extends Error {}

/** `value` is the placeholder of the option's value in the usage. An option without it is a switch. */
type Options = Record<string, { value?: string; help: string }>;
export type Values<O extends Options = Options> = {
  [K in keyof O]?: O[K] extends { value: string } ? string : boolean;
};

export interface Action<Io extends CliIo = CliIo> {
  help: string;
  /** Placeholders of the positional arguments, all of which are required. */
  args?: string[];
  options?: Options;
  /** @returns the exit status, 0 if undefined */
  run(io: Io, values: Values, ...args: string[]): Promise<number | undefined>;
}

/**
 * @param actions by name, which is the first argument; the one named '' runs where no name is given
 * @param notes the end of the usage text
 * @returns the command's main function, which resolves with the exit status: 0 for success, 1 for a failure, 2 for wrong usage
 * @example defineCommand('npm run greet', { hello: { help: 'greets', run: async ({ out }) => void out.write('hello\n') } }, '');
 */
export function defineCommand<Io extends CliIo>(command: string, actions: Record<string, Action<Io>>, notes: string) {
  return async (args: string[], io: Io): Promise<number> => {
    try {
      if (args.includes('--help')) {
        io.out.write(usageOf(command, actions, notes));
        return 0;
      }
      const [first = '', ...rest] = args;
      const names = Object.keys(actions).filter((name) => name !== '');
      const name = names.includes(first) ? first : '';
      const isUnknown = names.length > 0 && /^[^-]/.test(first) && name === '';
      if (isUnknown || !Object.hasOwn(actions, name))
        throw new UsageError(
          `${first ? `${first}: unknown action` : 'no action is given'}; use one of ${names.join(', ')}`,
        );
      const { args: wanted = [], options = {}, run } = actions[name]!;
      const { values, positionals } = parse(name ? rest : args, options);
      const verb = positionals.length < wanted.length ? 'needs' : 'takes only';
      if (positionals.length !== wanted.length)
        throw new UsageError(
          `${name || command}: ${wanted.length > 0 ? `${verb} ${wanted.join(' ')}` : 'takes no arguments'}`,
        );
      return (await run(io, values, ...positionals)) ?? 0;
    } catch (error) {
      io.err.write(`${(error as Error).message}\n`);
      return error instanceof UsageError ? 2 : 1;
    }
  };
}

function parse(args: string[], options: Options): { values: Values; positionals: string[] } {
  const types = Object.entries(options).map(
    ([name, { value }]) => [name, { type: value ? 'string' : 'boolean' } as const] as const,
  );
  try {
    const { values, positionals } = parseArgs({ args, options: Object.fromEntries(types), allowPositionals: true });
    return { values: values as Values, positionals };
  } catch (error) {
    const [complaint] = (error as Error).message.split(/[.\n]/); // what follows are hints on quoting
    const names = [...Object.keys(options), 'help'].map((name) => `--${name}`);
    throw new UsageError(`${complaint}; allowed are ${names.join(', ')}`);
  }
}

/** Options that several actions share are listed once, with the first. */
function usageOf(command: string, actions: Record<string, Omit<Action, 'run'>>, notes: string): string {
  const listed = new Set<Options>();
  const rows = Object.entries(actions).flatMap(([name, { help, args = [], options = {} }]) => {
    const entries = listed.has(options) ? [] : Object.entries(options);
    listed.add(options);
    const flags = entries.map(([flag, { value = '', help }]) => [`    --${flag} ${value}`.trimEnd(), help] as const);
    return [[`  ${[name, ...args].join(' ').trim()}`, help] as const, ...flags];
  });
  const width = Math.max(...rows.map(([label]) => label.length)) + 2;
  const lines = rows.map(([label, help]) => label.padEnd(width) + help.replaceAll('\n', `\n${' '.repeat(width)}`));
  return `Usage: ${command} -- [ACTION] [OPTION …]\n\n${lines.join('\n')}\n\n${notes.trim()}\n`;
}

/**
 * Whether Node was started with this module as its program, and so did not import it.
 * @param moduleUrl the caller's import.meta.url
 */
export function isMain(moduleUrl: string): boolean {
  const program = process.argv[1] ?? ''; // with `node --eval` it is the first argument, and need not be a file
  return existsSync(program) && realpathSync(program) === fileURLToPath(moduleUrl);
}

export async function runIfMain(moduleUrl: string, main: (args: string[], io: CliIo) => Promise<number>) {
  if (!isMain(moduleUrl)) return;
  watchOutput();
  process.exitCode = await main(process.argv.slice(2), { env: process.env, out: process.stdout, err: process.stderr });
}
