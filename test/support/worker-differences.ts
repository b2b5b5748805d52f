/**
 * Where this worker differs from RunPod's own for Python (runpod 1.12.0), on purpose. The conformance tests hold both sides to each row,
 * and README.md to the table.
 */
export interface Difference {
  what: string;
  python: string;
  ours: string;
  reason: string;
}

const difference = (what: string, python: string, ours: string, reason: string): Difference => ({
  what,
  python,
  ours,
  reason,
});

export const differences = {
  takeFails: difference(
    'job-take fails (5xx, 401, a broken connection)',
    'asks again at once, hundreds of times a second',
    'waits 0.25 s, doubling to 5 s',
    'a server in trouble is left in peace',
  ),
  emptyAtOnce: difference(
    'job-take says at once that there is nothing',
    'asks again at once',
    'waits 0.25 s',
    'the same; where the server holds the poll nobody waits',
  ),
  fullHouse: difference(
    'all slots were taken, one is free again',
    'looks once a second: at most one job a second and slot',
    'asks at once',
    'short jobs',
  ),
  outcomeLimited: difference(
    'job-done answers 429',
    'the outcome is lost, and pings no longer name the job',
    'sent again, for five minutes, and pings name the job meanwhile',
    'no outcome is lost',
  ),
  outcomeReset: difference(
    'the connection breaks at job-done',
    'the outcome is lost',
    'sent again, byte for byte',
    'no outcome is lost',
  ),
  unserialisable: difference(
    'an output that JSON has no word for',
    'nothing is posted: the job runs until it times out',
    'the job fails with that error',
    'every job ends',
  ),
  notANumber: difference(
    'NaN and Infinity in an output',
    'posted as NaN, which is no JSON',
    'null, as JSON.stringify has it',
    'what is posted can be read',
  ),
  tooLarge: difference(
    'an output or chunk larger than RunPod takes',
    'posted all the same',
    'an error that names the size',
    'the caller learns why',
  ),
  errorObject: difference(
    '`error` that is no text',
    'posted as it is; of a chunk as Python would print it',
    'posted as JSON in text',
    'clients expect text',
  ),
  thrown: difference(
    'what a thrown error tells',
    "also `hostname` and `runpod_version`; the type as `<class 'ValueError'>`",
    'the type by its name, message, stack and worker',
    'the others say nothing about the job',
  ),
  generatorThrows: difference(
    'a generator throws',
    '`handler: MESSAGE traceback: …` in plain text',
    'the same JSON as for any other throw',
    'one form to read',
  ),
  progress: difference(
    'progress faster than it can be sent',
    'each value, from a thread of its own: in any order, perhaps after the outcome',
    'in order, the latest wins, none after the outcome',
    'what is shown is true',
  ),
  stopped: difference(
    'a job is stopped',
    'its task is cancelled at the next `await`',
    'its AbortSignal is aborted; it is in hand until its function has ended',
    'JavaScript can’t cancel a promise, and what still runs still takes memory',
  ),
  givenTwice: difference(
    'a job is given again while it is in hand',
    'run twice at once',
    'run once',
    'one job, one outcome',
  ),
  concurrencyChanges: difference(
    'the concurrency changes',
    'nothing is taken until no job is in hand',
    'counts from the next take on',
    'no slot lies idle',
  ),
  shortInterval: difference(
    'RUNPOD_PING_INTERVAL below 1000',
    'no pings at all',
    'milliseconds, as said',
    'the variable is in milliseconds',
  ),
  version: difference('`runpod_version`', 'in each ping', 'not sent', 'this is not that package'),
  requestId: difference(
    'X-Request-ID of a job-take, and of a post sent again',
    'the id of whichever job was posted last',
    'none; the job’s own',
    'it is left over there',
  ),
  podInTake: difference(
    '`$RUNPOD_POD_ID` in RUNPOD_WEBHOOK_GET_JOB',
    'left as it is; only `$ID` is filled in',
    'filled in too',
    'as in the other addresses',
  ),
  signalIdle: difference(
    'SIGTERM while polls are held',
    'waits until the server has answered them, up to 90 s',
    'aborts them and ends',
    'whoever takes the machine away may not wait so long',
  ),
  lateJob: difference(
    'a job is given to a held poll after SIGTERM',
    'taken and, unless within 0.1 s, never run',
    'stays in the queue; one that is already on its way is run',
    'no job is lost',
  ),
  localOutcome: difference(
    'what a job from `--test_input` or test_input.json prints',
    'its outcome in Python’s words, among the log',
    'its outcome in JSON, as the last line',
    'to be read by programs',
  ),
  localGenerator: difference(
    'a generator there',
    'is not run',
    'is run, and its chunks are the output',
    'to try it out',
  ),
  apiRun: difference(
    '`--rp_serve_api`: when a job from /run runs',
    'when /status or /stream asks for it',
    'at once',
    'as with RunPod',
  ),
  apiAgain: difference(
    '`--rp_serve_api`: /status of a job that has ended',
    'once; then the job is not found',
    'as often as asked',
    'as with RunPod',
  ),
  apiGet: difference(
    '`--rp_serve_api`: GET /status, /stream',
    '405; only POST',
    'the job as it is; POST waits for its end',
    'RunPod’s clients use GET',
  ),
  apiHook: difference(
    '`--rp_serve_api`: what a webhook hears',
    'the output alone',
    '`id`, `status`, `output` or `error`',
    'as from RunPod',
  ),
  apiNoStream: difference(
    '`--rp_serve_api`: /stream of a job that is no generator',
    'an error',
    'no chunks',
    'as with RunPod',
  ),
  secondSignal: difference(
    'a second SIGTERM',
    'changes nothing',
    'ends the process at once',
    'as terminal programs do',
  ),
} satisfies Record<string, Difference>;
