import { redact } from '../../core/redact.ts';

/** Called with each event. One with an `error` is a warning. */
export type Log = (event: { event: string; jobId?: string; error?: unknown; [detail: string]: unknown }) => void;

const LEVELS = ['NOTSET', 'TRACE', 'DEBUG', 'INFO', 'WARN', 'ERROR'];

/**
 * Logs to standard output, as lines of JSON that RunPod's console can read.
 * @param level RUNPOD_LOG_LEVEL: WARN prints only warnings, ERROR nothing
 * @throws Error: the level is unknown
 */
export function consoleLog(level = 'INFO'): Log {
  const minimum = LEVELS.indexOf(level.toUpperCase());
  if (minimum === -1) throw new Error(`RUNPOD_LOG_LEVEL must be one of ${LEVELS.join(', ')}`);
  return ({ event, jobId, error, ...details }) => {
    const severity = error === undefined ? 'INFO' : 'WARN';
    if (LEVELS.indexOf(severity) < minimum) return;
    const text = error instanceof Error ? redact(error.stack ?? error.message) : error;
    console.log(JSON.stringify({ requestId: jobId ?? null, message: event, level: severity, error: text, ...details }));
  };
}
