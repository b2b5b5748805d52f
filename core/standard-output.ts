/**
 * Errors of standard output and standard error: the reader of the pipe has ended (EPIPE), or the disk of the log file is full. Without
 * a listener each of them is an uncaught exception.
 */

const ignore = () => undefined;

/** Lets a program go on although nobody can read its output any more. May be called repeatedly. */
export function ignoreOutputErrors(): void {
  for (const stream of [process.stdout, process.stderr])
    if (!stream.listeners('error').includes(ignore)) stream.on('error', ignore);
}

/**
 * For a command, whose output is its result: after EPIPE it ends as without it. Any other error is printed, and the exit status is
 * at least 1.
 * @param onClosed called after EPIPE, perhaps repeatedly
 */
export function watchOutput(onClosed: () => void = ignore): void {
  ignoreOutputErrors();
  process.stdout.on('error', ({ code, message }: NodeJS.ErrnoException) => {
    if (code === 'EPIPE') return onClosed();
    process.stderr.write(`standard output: ${message}\n`);
    process.once('exit', () => {
      process.exitCode ||= 1;
    });
  });
}
