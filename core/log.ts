/**
 * Logs: one line of JSON an event, with the names that RunPod's console reads (`message`, `level`, and the job's id as `requestId`); in
 * a terminal the same in words.
 */
import { type Logger, pino, stdSerializers } from 'pino';
import pretty from 'pino-pretty';

export type Log = Logger;

/** RunPod's levels, in the order of its numbers 0 to 5, and what they are here. */
const LEVELS = { NOTSET: 'trace', TRACE: 'trace', DEBUG: 'debug', INFO: 'info', WARN: 'warn', ERROR: 'error' } as const;

/**
 * @param environment RUNPOD_LOG_LEVEL says what is left out; INFO unless said
 * @throws Error that names the variable
 */
export function createLog(environment: NodeJS.ProcessEnv): Log {
  const options = {
    base: null,
    level: logLevel(environment.RUNPOD_LOG_LEVEL || 'INFO'),
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

/** What an error says, not what it carries: with RunPod's client that is the whole request, the key in its headers. */
export const serializers = { error: saidBy };

function saidBy(error: unknown) {
  if (!(error instanceof Error)) return error;
  const { type, message, stack, code } = stdSerializers.err(error);
  return { type, message, stack, code };
}

function logLevel(text: string) {
  const name = Object.keys(LEVELS)[Number(text)] ?? text.toUpperCase();
  if (name in LEVELS) return LEVELS[name as keyof typeof LEVELS];
  throw new Error(`RUNPOD_LOG_LEVEL must be one of ${Object.keys(LEVELS).join(', ')}, or 0 to 5`);
}
