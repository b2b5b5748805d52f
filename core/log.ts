/**
 * Logs: one line of JSON for each event, with the fields that RunPod's console reads (`message`, `level`, and the job's id as
 * `requestId`). On a terminal the lines are readable text.
 */
import { type Logger, pino, stdSerializers } from 'pino';
import pretty from 'pino-pretty';

export type Log = Logger;

/** RunPod's levels, in the order of its numbers 0 to 5, and pino's names for them. */
const LEVELS = { NOTSET: 'trace', TRACE: 'trace', DEBUG: 'debug', INFO: 'info', WARN: 'warn', ERROR: 'error' } as const;

/**
 * @param environment RUNPOD_LOG_LEVEL is the lowest level that is logged; default INFO
 * @throws Error that names the variable
 */
export function createLog(environment: NodeJS.ProcessEnv): Log {
  const options = {
    base: null,
    level: parseLogLevel(environment.RUNPOD_LOG_LEVEL || 'INFO'),
    messageKey: 'message',
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label.toUpperCase() }) },
    serializers,
  };
  if (!process.stdout.isTTY) return pino(options);
  return pino(
    options,
    pretty({
      messageKey: 'message',
      translateTime: 'SYS:HH:MM:ss.l',
      errorLikeObjectKeys: ['error'],
      singleLine: true,
      sync: true,
    }),
  );
}

/** An error's own text, without its properties: those of RunPod's client contain the request, with the key in its headers. */
export const serializers = { error: serializeError };

function serializeError(error: unknown) {
  if (!(error instanceof Error)) return error;
  const { type, message, stack, code } = stdSerializers.err(error);
  return { type, message, stack, code };
}

function parseLogLevel(text: string) {
  const name = Object.keys(LEVELS)[Number(text)] ?? text.toUpperCase();
  if (name in LEVELS) return LEVELS[name as keyof typeof LEVELS];
  throw new Error(`RUNPOD_LOG_LEVEL must be one of ${Object.keys(LEVELS).join(', ')}, or 0 to 5`);
}
