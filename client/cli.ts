#!/usr/bin/env node
/** `img2vid`: the API from a terminal or a script. */
import { realpathSync } from 'node:fs';
import { addAbortSignal, type Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { loadEnvFile } from '../core/env-file.mjs';
import { CLEAR_LINE, formatCount } from '../core/format.ts';
import { watchOutput } from '../core/standard-output.ts';
import { isActive, STATUSES } from '../core/task-status.ts';
import { parseTextFields } from '../core/text-fields.ts';
import {
  formatAmount,
  formatError,
  formatJson,
  formatLine,
  formatQuiet,
  formatTask,
  formatUsage,
} from './cli-format.ts';
import { checkOutput, FileError, readPicture, saveVideo, userPath } from './files.ts';
import { checkNames, type Flags, flagOf, parameterHelp, parseFlags, UsageError } from './flags.ts';
import {
  ApiError,
  type Client,
  type ClientOptions,
  createClient,
  type FollowedTask,
  type Parameters,
  type Task,
} from './index.ts';
import { type ProgressOutput, progressBar } from './progress-bar.ts';

const COMMAND_LINES = `img2vid --prompt TEXT | --image FILE|URL|- [--out FILE] [--PARAMETER VALUE …]   makes a clip
img2vid quote --prompt TEXT …     shows the parameters and the highest cost of a clip, but makes none
img2vid status [ID]               shows a task; without ID the newest task
img2vid list                      lists tasks, newest first
img2vid watch ID                  watches a task until it ends
img2vid download ID               saves the video of a task
img2vid cancel ID                 cancels a task
img2vid delete ID                 deletes the files and the prompt of an ended task
img2vid usage                     shows what the API key has spent
`;

const DETAILS = `  --image FILE|URL|-   the picture to animate; - reads it from standard input
  --out FILE           saves the MP4 there; several videos as one grid. In a folder the clip's own
                       name is used. Also for watch, and for download, where the default is the current folder
  --video N            saves the Nth of several videos instead of the grid
  --force              overwrites an existing file
  --no-wait            ends when the service has accepted the task
  --url URL            the service; default IMG2VID_URL, else http://127.0.0.1:5000
  --key KEY            the API key; default IMG2VID_API_KEY. Other users of this machine can read --key,
                       but not the variable
  --json               prints JSON and nothing else on standard output
  --quiet              prints no progress and no notes; for a clip only its link or file
  --status STATUS      list: ${STATUSES.join(', ')}
  --since, --until     list: times, such as 2026-01-31T18:00:00Z; usage: days, such as 2026-01-31
  --limit N            list: the most tasks to list, default 20; 0 lists all
  --metadata KEY=TEXT  attaches a text to the task; list: only tasks that have it. May be repeated
  --help               prints this text

Exit status:
  0    success
  1    the task failed or was canceled, it has no video to save, or the service refused the request
  2    the command line or a value is wrong
  3    the service cannot be reached
  4    a file cannot be read or saved
  130  Ctrl-C; a task that was created continues

Parameters of a clip:
`;

export const EXIT = { ok: 0, failed: 1, usage: 2, unreachable: 3, file: 4, interrupted: 130 } as const;

const VALUES = ['image', 'out', 'video', 'url', 'key', 'status', 'since', 'until', 'limit'] as const;
const SWITCHES = ['force', 'no-wait', 'json', 'quiet', 'help'] as const;
const COMMON_FLAGS = ['url', 'key', 'json', 'quiet'];

interface Command {
  run: (context: Context) => Promise<number>;
  /** flags besides COMMON_FLAGS */
  flags: string[];
  /** whether it takes the id of a task */
  id?: 'required' | 'optional';
}
/** The first one has no name on the command line. */
const COMMANDS: Record<string, Command> = {
  make: { run: make, flags: ['image', 'out', 'video', 'force', 'no-wait'] },
  quote: { run: quote, flags: ['image'] },
  status: { run: status, flags: [], id: 'optional' },
  list: { run: list, flags: ['status', 'since', 'until', 'limit', 'metadata'] },
  watch: { run: watch, flags: ['out', 'video', 'force'], id: 'required' },
  download: { run: download, flags: ['out', 'video', 'force'], id: 'required' },
  cancel: { run: (context) => change(context, context.client.cancel), flags: [], id: 'required' },
  delete: { run: (context) => change(context, context.client.delete), flags: [], id: 'required' },
  usage: { run: usage, flags: ['since', 'until'] },
};

export interface CliIo {
  env: NodeJS.ProcessEnv;
  stdin: Readable;
  out: { write(text: string): unknown };
  err: ProgressOutput;
  /** aborted by Ctrl-C */
  signal: AbortSignal;
}

interface Context extends CliIo, Flags<(typeof VALUES)[number], (typeof SWITCHES)[number]> {
  client: Client;
  id: string;
  /** prints JSON with --json, else the text */
  print(value: unknown, text: string): void;
  /** prints a task. @returns the exit status that it stands for */
  show(task: Task): number;
  /** prints a line on standard error, except with --quiet */
  note(text: string): void;
}

/** The reader of standard output has ended, as `head` does. */
const CLOSED = new Error('standard output is closed');

/** @returns the exit status; problems are printed on `err` */
export async function main(args: string[], io: CliIo): Promise<number> {
  const { env, out, err, signal } = io;
  const printError = (text: string) => void err.write(`${err.isTTY ? CLEAR_LINE : ''}${text}\n`);
  try {
    const flags = parseFlags(args, { values: VALUES, switches: SWITCHES });
    const { values, switches } = flags;
    if (switches.has('help')) {
      out.write(`${COMMAND_LINES}\n${DETAILS}${parameterHelp()}\n`);
      return EXIT.ok;
    }
    if (args.length === 0) {
      err.write(`${COMMAND_LINES}\nimg2vid --help shows all flags and parameters.\n`);
      return EXIT.usage;
    }
    const { run, id } = findCommand(flags);
    const note = (text: string) => void (switches.has('quiet') || printError(text));
    const print = (value: unknown, text: string) => void out.write(switches.has('json') ? formatJson(value) : text);
    const client = connect({
      url: values.url ?? (env.IMG2VID_URL || 'http://127.0.0.1:5000'),
      key: values.key ?? (env.IMG2VID_API_KEY || undefined),
      onBreak: (error) => note(`${error ? (error as Error).message : 'the connection ended'}; trying again …`),
    });
    const show = (task: Task) => {
      print(task, switches.has('quiet') ? formatQuiet(task) : formatTask(task));
      return isActive(task.status) || task.status === 'succeeded' ? EXIT.ok : EXIT.failed;
    };
    return await run({ ...io, ...flags, client, id, print, show, note });
  } catch (error) {
    if (signal.aborted) return EXIT.interrupted;
    if (error instanceof ApiError) {
      printError(formatError(error));
      if (error.status === 0) return EXIT.unreachable;
      return error.status === 422 ? EXIT.usage : EXIT.failed;
    }
    if (!(error instanceof UsageError || error instanceof FileError)) throw error;
    printError(error instanceof UsageError ? `${error.message}\nsee img2vid --help` : error.message);
    return error instanceof UsageError ? EXIT.usage : EXIT.file;
  }
}

/** @throws UsageError for an unknown command, and for flags and positionals that it does not take */
function findCommand({ positionals, values, switches, fields }: Pick<Context, keyof Flags<string, string>>) {
  const [name = 'make', ...rest] = positionals;
  if (!Object.hasOwn(COMMANDS, name) || positionals[0] === 'make')
    throw new UsageError(`${name}: unknown command; use one of ${Object.keys(COMMANDS).slice(1).join(', ')}`);
  const { run, id, flags } = COMMANDS[name]!;
  const known = [...flags, ...COMMON_FLAGS];
  const takesParameters = name === 'make' || name === 'quote';
  if (takesParameters) checkNames(fields, known);
  const given = [
    ...Object.keys(values),
    ...switches,
    ...(takesParameters ? [] : fields.map(([field]) => flagOf(field))),
  ];
  for (const flag of given) if (!known.includes(flag)) throw new UsageError(`--${flag} can’t be used with ${name}`);
  for (const [flag, value] of Object.entries(values))
    if (value === '' && flag !== 'key') throw new UsageError(`--${flag} needs a value`); // scripts may have no key
  if (id === 'required' && !rest[0]) throw new UsageError(`${name} needs the id of a task`);
  const surplus = rest[id ? 1 : 0];
  if (surplus !== undefined) throw new UsageError(`${surplus}: unexpected argument`);
  return { run, id: rest[0] ?? '' };
}

/** @throws UsageError the URL or the key can’t be used */
function connect(options: ClientOptions): Client {
  try {
    return createClient(options);
  } catch (error) {
    throw new UsageError(`--${(error as TypeError).message}`);
  }
}

async function make(context: Context): Promise<number> {
  const { client, values, switches, note, show, signal } = context;
  if (values.out !== undefined && switches.has('no-wait')) throw new UsageError('--out can’t be used with --no-wait');
  const path = readOutput(context, values.out); // before anything is paid
  const parameters = await readParameters(context);
  const videos = parameters.num_cols ?? 1;
  if (Number(values.video) > videos) throw new UsageError(`--video: must be at most --num-cols, which is ${videos}`);
  const task = await client.img2vid(parameters, { signal }).catch((error) => {
    if (signal.aborted) note('The service may have accepted the request: img2vid status shows the newest task.');
    throw error;
  });
  for (const { field, message } of task.answer.warnings) note(`${field}: ${message}`);
  return switches.has('no-wait') ? show(task.answer) : follow(context, task, path);
}

async function watch(context: Context): Promise<number> {
  const { client, id, values, signal } = context;
  const path = readOutput(context, values.out);
  return follow(context, client.follow(id, { signal }), path);
}

/** Shows the progress of a task, saves its video at `path` if it is given, and shows the result. */
async function follow(context: Context, followed: FollowedTask, path: string | undefined): Promise<number> {
  const { switches, note, show, err, signal } = context;
  const bar = err.isTTY && !switches.has('quiet') ? progressBar(err) : undefined;
  let task: Task | undefined;
  try {
    for await (task of followed) bar?.show(task);
  } catch (error) {
    const commands = `  img2vid watch ${followed.id}\n  img2vid cancel ${followed.id}`;
    if (signal.aborted) note(`Watching has ended; the task continues. Watch it again, or cancel it:\n${commands}`);
    else if (error instanceof ApiError && error.status === 0)
      note(`The task may continue. To check it later:\n${commands}`);
    throw error;
  }
  bar?.end(task!);
  const isSaved = path !== undefined && task!.videos !== undefined;
  if (isSaved) note(`saved ${await save(context, task!, path)}`);
  const exit = show(task!);
  return path !== undefined && !isSaved ? EXIT.failed : exit; // the files of a task that succeeded may be deleted
}

async function quote(context: Context): Promise<number> {
  const { client, print, note, switches, signal } = context;
  const answer = await client.dryRun(await readParameters(context), { signal });
  if (!switches.has('json')) for (const { field, message } of answer.warnings) note(`${field}: ${message}`);
  const { amount, currency, gpu_seconds } = answer.cost_estimate;
  print(answer, `at most ${formatAmount(amount, currency)}, for ${gpu_seconds} s of GPU\n`);
  return EXIT.ok;
}

async function status({ client, id, show, print, signal }: Context): Promise<number> {
  if (id !== '') return show(await client.status(id, { signal }));
  for await (const newest of client.list({ pageSize: 1, signal })) return show(newest);
  print(null, 'there are no tasks yet\n');
  return EXIT.ok;
}

/** Prints tasks as they come: the list may be long. An error leaves JSON without its end: nobody shall take a part for the whole. */
async function list({ client, fields, values, switches, out, signal }: Context): Promise<number> {
  const { since, until, limit = '20' } = values;
  if (!/^\d+$/.test(limit)) throw new UsageError('--limit: must be a whole number, 0 for all');
  const status = values.status as Task['status'] | undefined; // the service checks it
  const max = Number(limit) || Infinity;
  const { metadata } = parseTextFields(fields) as Parameters;
  const isJson = switches.has('json');
  let count = 0;
  for await (const task of client.list({ status, since, until, metadata, pageSize: Math.min(max, 100), signal })) {
    out.write(isJson ? `${count > 0 ? ',' : '['}\n${JSON.stringify(task)}` : formatLine(task));
    if (++count === max) break; // before another page is requested
  }
  if (isJson) out.write(count > 0 ? '\n]\n' : '[]\n');
  return EXIT.ok;
}

async function download(context: Context): Promise<number> {
  const { client, values, id, print, note, show, signal } = context;
  const out = readOutput(context, values.out ?? '.');
  const task = await client.status(id, { signal });
  if (isActive(task.status)) note(`the task is ${task.status}: img2vid watch ${id} --out FILE waits for it`);
  if (!task.videos) {
    show(task);
    return EXIT.failed;
  }
  const path = await save(context, task, out);
  print({ path, ...chooseFile(task, context) }, `${path}\n`);
  return EXIT.ok;
}

/** Cancels or deletes a task. That is a success, also where the task's own status stands for a failure. */
async function change({ id, show, signal }: Context, action: Client['cancel' | 'delete']): Promise<number> {
  show(await action(id, { signal }));
  return EXIT.ok;
}

async function usage({ client, values: { since, until }, print, signal }: Context): Promise<number> {
  const account = await client.usage({ since, until, signal });
  print(account, formatUsage(account));
  return EXIT.ok;
}

/** @throws FileError the picture cannot be read */
async function readParameters({ fields, values: { image }, env, stdin, signal }: Context): Promise<Parameters> {
  const parameters = parseTextFields(fields) as Parameters; // the service checks the values
  if (image === undefined) return parameters;
  if (/^https?:\/\//i.test(image)) return { ...parameters, image_url: image };
  const picture = image === '-' ? await buffer(addAbortSignal(signal, stdin)) : await readPicture(image, env, signal);
  if ((picture instanceof File ? picture.size : picture.length) === 0)
    throw new FileError(`--image ${image}: is empty`);
  return { ...parameters, image: picture };
}

/** The file that --video means: the grid or the only video without it. @throws UsageError */
function chooseFile({ id, grid, videos = [] }: Task, { values: { video } }: Pick<Context, 'values'>) {
  const file = video === undefined ? (grid ?? videos[0]) : videos[Number(video) - 1];
  if (!file)
    throw new UsageError(
      `--video ${video}: the task has only ${formatCount(videos.length, 'video')}; img2vid download ${id} saves it`,
    );
  return file;
}

/** @returns the absolute path that --out names. @throws UsageError --video is no number, or has no --out; FileError */
function readOutput<T extends string | undefined>({ values, switches, env }: Context, out: T) {
  if (values.video !== undefined && !/^([1-9]|10)$/.test(values.video))
    throw new UsageError('--video: must be a whole number from 1 to 10');
  if (out === undefined && (values.video !== undefined || switches.has('force')))
    throw new UsageError('--video and --force need --out');
  const path = out && userPath(out, env);
  if (path !== undefined) checkOutput(path, switches.has('force'));
  return path as T;
}

function save(context: Context, task: Task, path: string): Promise<string> {
  const { client, switches, signal, note } = context;
  const options = { client, task, video: chooseFile(task, context), path, force: switches.has('force'), signal };
  return saveVideo(options).catch((error) => {
    if (signal.aborted) note(`The clip is finished. Get it with img2vid download ${task.id}`);
    throw error;
  });
}

/** Runs as a process. The first Ctrl-C ends the waiting, the second one the process. A closed pipe ends a list. */
export async function run(): Promise<void> {
  try {
    // The file may be that of any project: its URL must not get the key of the environment.
    if (!process.env.IMG2VID_API_KEY) loadEnvFile(['IMG2VID_URL', 'IMG2VID_API_KEY']);
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`);
    process.exitCode = EXIT.file;
    return;
  }
  const stop = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => stop.abort());
  watchOutput(() => stop.abort(CLOSED));
  const { env, stdin, stdout: out, stderr: err } = process;
  const status = await main(process.argv.slice(2), { env, stdin, out, err, signal: stop.signal });
  process.exitCode = status === EXIT.interrupted && stop.signal.reason === CLOSED ? EXIT.ok : status;
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) await run();
