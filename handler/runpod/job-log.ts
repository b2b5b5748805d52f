/** One event, for the log; `error` is what has gone wrong, and makes it a warning. */
export type Log = (event: { event: string; jobId?: string; error?: unknown; [detail: string]: unknown }) => void;

const LEVELS = ['NOTSET', 'TRACE', 'DEBUG', 'INFO', 'WARN', 'ERROR'];

/**
 * Lines of JSON as RunPod's console reads them, on standard output.
 * @param level RUNPOD_LOG_LEVEL: WARN leaves out what is no warning, ERROR all
 * @throws Error for a level that there is not
 */
export function consoleLog(level = 'INFO'): Log {
  const least = LEVELS.indexOf(level.toUpperCase());
  if (least === -1) throw new Error(`RUNPOD_LOG_LEVEL must be one of ${LEVELS.join(', ')}`);
  return ({ event, jobId, error, ...details }) => {
    const own = error === undefined ? 'INFO' : 'WARN';
    if (LEVELS.indexOf(own) < least) return;
    const what = error instanceof Error ? (error.stack ?? error.message) : error;
    console.log(JSON.stringify({ requestId: jobId ?? null, message: event, level: own, error: what, ...details }));
  };
}
