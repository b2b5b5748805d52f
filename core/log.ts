/**
 * Logs: one line of JSON for each event, with the fields that RunPod's console reads (`message`, `level`, and the job's id as
 * `requestId`). On a terminal the lines are readable text.
 */
import { type Logger, pino, stdSerializers } from 'pino';
import pretty from 'pino-pretty';
import { redact, secretsOf } from './redact.ts';
import { ignoreOutputErrors } from './standard-output.ts';

export type Log = Logger;

/** RunPod's levels, in the order of its numbers 0 to 5, and pino's names for them. */
const LEVELS = { NOTSET: 'trace', TRACE: 'trace', DEBUG: 'debug', INFO: 'info', WARN: 'warn', ERROR: 'error' } as const;

/** Characters kept while standard output takes none; lines beyond it are dropped. */
const MAX_UNWRITTEN = 1_000_000;

/**
 * A log that can't be written, because its pipe is closed or its disk is full, does not end the process.
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
    serializers: createSerializers(environment),
  };
  const { isTTY } = process.stdout;
  const destination = pino.destination({ fd: 1, sync: isTTY, maxLength: MAX_UNWRITTEN });
  destination.on('error', () => {
    destination.flushSync = () => undefined; // at the exit it would throw the error
  });
  ignoreOutputErrors();
  if (!isTTY) return pino(options, destination);
  return pino(
    options,
    pretty({
      messageKey: 'message',
      translateTime: 'SYS:HH:MM:ss.l',
      errorLikeObjectKeys: ['error'],
      singleLine: true,
      destination,
    }),
  );
}

/**
 * Serializers that log an error's own text, without its properties: those of RunPod's client contain the request, with the key in its
 * headers. Links, the environment's secrets and the words of the prompt are removed from the text.
 * @param prompt of the job that the log is about
 */
export function createSerializers(environment: NodeJS.ProcessEnv, prompt?: string) {
  const secrets = secretsOf(environment);
  const clean = (text: string | undefined) => text && redact(text, secrets, prompt);
  return {
    error(error: unknown) {
      if (!(error instanceof Error)) return typeof error === 'string' ? clean(error) : error;
      const { type, message, stack, code } = stdSerializers.err(error);
      return { type, message: clean(message), stack: clean(stack), code };
    },
  };
}

function parseLogLevel(text: string) {
  const name = Object.keys(LEVELS)[Number(text)] ?? text.toUpperCase();
  if (name in LEVELS) return LEVELS[name as keyof typeof LEVELS];
  throw new Error(`RUNPOD_LOG_LEVEL must be one of ${Object.keys(LEVELS).join(', ')}, or 0 to 5`);
}
