import { parseArgs } from 'node:util';

export type Flags = ReturnType<typeof parseFlags>;

const FLAGS = {
  test_input: { type: 'string' },
  rp_serve_api: { type: 'boolean' },
  rp_api_host: { type: 'string' },
  rp_api_port: { type: 'string' },
  rp_api_concurrency: { type: 'string' },
  rp_log_level: { type: 'string' },
} as const;

/**
 * RunPod's flags among a program's arguments. Other flags are ignored, unless they begin with `rp_`.
 * @throws Error that names the flag
 */
export function parseFlags(argv: string[]) {
  const { values, tokens } = parseArgs({ args: argv, strict: false, tokens: true, options: FLAGS });
  for (const token of tokens)
    if (token.kind === 'option' && token.name.startsWith('rp_') && !Object.hasOwn(FLAGS, token.name))
      throw new Error(`--${token.name} is not supported; RunPod’s flags here are ${Object.keys(FLAGS).join(', ')}`);
  const text = (name: keyof typeof FLAGS): string | undefined => {
    const value = values[name];
    if (value === true) throw new Error(`--${name} needs a value`);
    return value as string | undefined;
  };
  const integer = (name: keyof typeof FLAGS, fallback: number, max: number) => {
    const value = text(name) ?? String(fallback);
    if (!/^\d+$/.test(value) || Number(value) > max)
      throw new Error(`--${name} must be a whole number up to ${max}; it is ${value}`);
    return Number(value);
  };
  return {
    /** JSON of a job */
    testInput: text('test_input'),
    serveApi: values.rp_serve_api === true,
    host: text('rp_api_host') ?? 'localhost',
    port: integer('rp_api_port', 8000, 65_535),
    /** how many jobs run at once, from 1 */
    concurrency: Math.max(1, integer('rp_api_concurrency', 1, 1000)),
    logLevel: text('rp_log_level'),
  };
}
