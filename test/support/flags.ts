import { parseArgs } from 'node:util';

/**
 * Reads a program's flags. A flag with a number as its default takes numbers from 0.
 * @param defaults every flag there is, with its default
 * @throws Error that names a flag which does not exist, or whose value is not such a number
 * @example const { rounds } = readFlags(['--rounds', '5'], { rounds: 3 }); // 5
 */
export function readFlags<Flags extends Record<string, number | string>>(args: string[], defaults: Flags): Flags {
  const options = Object.fromEntries(Object.keys(defaults).map((name) => [name, { type: 'string' as const }]));
  const { values } = parseArgs({ args, options });
  const read = ([name, fallback]: [string, number | string]) => {
    const text = values[name];
    if (text === undefined || typeof fallback === 'string') return [name, text ?? fallback];
    if (!(Number(text) >= 0)) throw new Error(`--${name} must be a number from 0`);
    return [name, Number(text)];
  };
  return Object.fromEntries(Object.entries(defaults).map(read)) as Flags;
}
