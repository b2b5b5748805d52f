import { type ParseArgsConfig, parseArgs } from 'node:util';

/** A benchmark's flags, with `--json`, which they all know (report.ts). @throws TypeError that names a flag which there is not */
export const readFlags = <const Options extends NonNullable<ParseArgsConfig['options']>>(options: Options) =>
  parseArgs({
    args: process.argv.slice(3),
    options: { ...options, json: { type: 'boolean', default: false } as const },
  }).values;
