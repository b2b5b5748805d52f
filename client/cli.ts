/** `img2vid`: the API from a terminal or a script. */
import { createHash } from 'node:crypto';
import { createWriteStream, existsSync, realpathSync, statSync } from 'node:fs';
import { readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import type { WriteStream } from 'node:tty';
import { fileURLToPath } from 'node:url';
import { CLEAR_LINE } from '../core/format.ts';
import { parseTextFields } from '../core/request.ts';
import { isActive, STATUSES } from '../core/responses.ts';
import { checkNames, type Flags, parameterHelp, readFlags, WrongUsage } from './flags.ts';
import { ApiError, type Client, createClient, type FollowedTask, type Parameters, type Task } from './index.ts';
import { progressBar } from './progress-bar.ts';

const USAGE = `img2vid --prompt TEXT | --image FILE|URL|- [--out FILE] [--PARAMETER VALUE …]   makes a clip
img2vid quote --prompt TEXT …     what it would be, and the most that it can cost; nothing is made
img2vid status [ID]               a task, or the newest one
img2vid list                      tasks, newest first
img2vid watch ID                  goes on watching a task
img2vid download ID               saves its video
img2vid cancel ID                 cancels it
img2vid delete ID                 deletes the files and the prompt of an ended one
img2vid usage                     what the API key has spent

  --image FILE|URL|-   the picture to animate; -: from standard input
  --out FILE           saves the MP4 there, of several the grid; in a folder as ID.mp4. With watch, too;
                       download has ID.mp4 if it is not said
  --video N            of several videos the Nth one instead of the grid
  --force              overwrites a file
  --no-wait            ends when the task is accepted
  --url URL            the service; else IMG2VID_URL, else http://127.0.0.1:5000
  --key KEY            its API key; else IMG2VID_API_KEY: others on this machine can't read it there
  --json               JSON and nothing else on standard output: the task, the list, the account
  --quiet              no progress and no notes; of a clip only its link or file
  --status STATUS      of list: ${STATUSES.join(', ')}
  --since, --until     of list: times, such as 2026-01-31T18:00:00Z; of usage: days, such as 2026-01-31
  --limit N            of list: at most so many, 20 if it is not said, 0: all
  --help

It ends with 0 if all is well, 1 where the task failed or was canceled or the service refused something,
2 for a wrong command line or a wrong value, 3 where the service can't be reached, 4 where a file can't be
read or saved, 130 after Ctrl-C, which ends only the watching.

Parameters of a clip:
`;

const VALUES = ['image', 'out', 'video', 'url', 'key', 'status', 'since', 'until', 'limit'] as const;
const SWITCHES = ['force', 'no-wait', 'json', 'quiet', 'help'] as const;
type Given = Flags<(typeof VALUES)[number], (typeof SWITCHES)[number]>;

export const EXIT = { ok: 0, failed: 1, usage: 2, unreachable: 3, file: 4, interrupted: 130 } as const;

/** Which flags a command takes beside url, key, json and quiet, and whether it needs an id. */
const COMMANDS: Record<
  string,
  { run: (context: Context) => Promise<number>; id?: 'needed' | 'optional'; flags: string[] }
> = {
  make: { run: make, flags: ['image', 'out', 'video', 'force', 'no-wait'] },
  quote: { run: quote, flags: ['image'] },
  status: { run: status, id: 'optional', flags: [] },
  list: { run: list, flags: ['status', 'since', 'until', 'limit'] },
  watch: { run: watch, id: 'needed', flags: ['out', 'video', 'force'] },
  download: { run: download, id: 'needed', flags: ['out', 'video', 'force'] },
  cancel: { run: ({ client, id, show }) => show(client.cancel(id)), id: 'needed', flags: [] },
  delete: { run: ({ client, id, show }) => show(client.delete(id)), id: 'needed', flags: [] },
  usage: { run: usage, flags: ['since', 'until'] },
};
const EVERYWHERE = ['url', 'key', 'json', 'quiet'];

export interface Surroundings {
  env: NodeJS.ProcessEnv;
  stdin: NodeJS.ReadableStream;
  out: { write(text: string): unknown };
  err: Pick<WriteStream, 'isTTY' | 'write'>;
  /** aborted by Ctrl-C */
  signal: AbortSignal;
}

interface Context extends Surroundings {
  given: Given;
  client: Client;
  id: string;
  isJson: boolean;
  /** to people, on standard error: not in the way of what is read from standard output */
  note(text: string): void;
  /** prints a task and what it comes to */
  show(task: Task | Promise<Task>): Promise<number>;
}

class FileError extends Error {}

/** @returns the exit status; what was wrong is told on `err` */
export async function main(args: string[], surroundings: Surroundings): Promise<number> {
  const { env, out, err, signal } = surroundings;
  try {
    const given = readFlags(args, { values: VALUES, switches: SWITCHES });
    if (given.switches.has('help') || args.length === 0) {
      out.write(`${USAGE}${parameterHelp()}\n`);
      return given.switches.has('help') ? EXIT.ok : EXIT.usage;
    }
    const { run, id } = command(given);
    const isJson = given.switches.has('json');
    const isQuiet = given.switches.has('quiet');
    const client = createClient({
      url: address(given.values.url ?? (env.IMG2VID_URL || 'http://127.0.0.1:5000')),
      key: given.values.key ?? (env.IMG2VID_API_KEY || undefined),
      onBreak: (error) => note(`${error ? (error as Error).message : 'the connection ended'}; trying again …`),
    });
    const note = (text: string) => void (isQuiet || err.write(`${err.isTTY ? CLEAR_LINE : ''}${text}\n`));
    async function show(asked: Task | Promise<Task>) {
      const task = await asked;
      out.write(isJson ? asJson(task) : isQuiet ? briefly(task) : inWords(task));
      return isActive(task.status) || task.status === 'succeeded' ? EXIT.ok : EXIT.failed;
    }
    return await run({ ...surroundings, given, client, id, isJson, note, show });
  } catch (error) {
    if (signal.aborted) return EXIT.interrupted;
    const clear = err.isTTY ? CLEAR_LINE : '';
    if (error instanceof WrongUsage) {
      err.write(`${clear}${error.message}\nimg2vid --help tells more\n`);
      return EXIT.usage;
    }
    if (error instanceof FileError) {
      err.write(`${clear}${error.message}\n`);
      return EXIT.file;
    }
    if (!(error instanceof ApiError)) throw error;
    const wrong = error.errors.map(({ field, message }) => `--${field}: ${message}`);
    err.write(`${clear}${wrong.length > 0 ? wrong.join('\n') : error.message}${hint(error)}\n`);
    if (error.status === 0) return EXIT.unreachable;
    return error.status === 422 ? EXIT.usage : EXIT.failed;
  }
}

/** What the words ask for, and whether every flag is one of it. @throws WrongUsage */
function command({ words, values, switches, fields }: Given) {
  const [first, ...rest] = words;
  const name = first ?? 'make';
  if (!Object.hasOwn(COMMANDS, name) || first === 'make')
    throw new WrongUsage(`${name}: no command; there are ${Object.keys(COMMANDS).slice(1).join(', ')}`);
  const { run, id: wanted, flags } = COMMANDS[name]!;
  const makes = name === 'make' || name === 'quote';
  if (makes) checkNames(fields, [...flags, ...EVERYWHERE]);
  const known = [...flags, ...EVERYWHERE];
  const strays = [...Object.keys(values), ...switches, ...(makes ? [] : fields.map(([field]) => field))];
  for (const flag of strays) if (!known.includes(flag)) throw new WrongUsage(`--${flag}: not for ${name}`);
  const [id = '', ...more] = rest;
  if (wanted === 'needed' && id === '') throw new WrongUsage(`${name} needs the id of a task`);
  const stray = wanted === undefined ? rest[0] : more[0];
  if (stray !== undefined) throw new WrongUsage(`${stray}: a word too many`);
  return { run, id };
}

function address(url: string): string {
  if (URL.canParse(url) && /^https?:$/.test(new URL(url).protocol)) return url;
  throw new WrongUsage(`--url ${url}: must be an http or https URL`);
}

async function make(context: Context): Promise<number> {
  const { client, given, note, show, signal } = context;
  const { out } = given.values;
  if (out !== undefined && given.switches.has('no-wait')) throw new WrongUsage('--out: not with --no-wait');
  readVideo(given);
  if (out !== undefined) checkTarget(out, given); // before anything is paid
  const parameters = await readParameters(context);
  const task = await client.img2vid(parameters, { signal }).catch((error) => {
    if (signal.aborted) note('The service may have taken it all the same: img2vid status shows the newest task.');
    throw error;
  });
  for (const { field, message } of task.answer.warnings) note(`${field}: ${message}`);
  if (given.switches.has('no-wait')) return show(task.answer);
  return follow(context, task);
}

async function watch(context: Context): Promise<number> {
  const { client, given, id, signal } = context;
  readVideo(given);
  if (given.values.out !== undefined) checkTarget(given.values.out, given);
  return follow(context, client.follow(id, { signal }));
}

/** Shows how it goes on a terminal, and at the end what has come of it, saved where it is wanted. */
async function follow(context: Context, followed: FollowedTask): Promise<number> {
  const { given, note, show, err, signal } = context;
  const bar = err.isTTY && !given.switches.has('quiet') ? progressBar(err) : undefined;
  let task: Task | undefined;
  try {
    for await (task of followed) bar?.show(task);
  } catch (error) {
    const goOn = `  img2vid watch ${followed.id}\n  img2vid cancel ${followed.id}`;
    if (signal.aborted) note(`Watching has ended; the task goes on. Watch it again, or cancel it:\n${goOn}`);
    else if (error instanceof ApiError && error.status === 0) note(`The task may go on. Later:\n${goOn}`);
    throw error;
  }
  bar?.end(task!);
  const { out } = given.values;
  if (out === undefined || task!.status !== 'succeeded') return show(task!);
  const path = await save(context, task!, out);
  note(`saved ${path}`);
  return show(task!);
}

async function quote(context: Context): Promise<number> {
  const { client, out, isJson, note, signal } = context;
  const answer = await client.dryRun(await readParameters(context), { signal });
  if (isJson) out.write(asJson(answer));
  else {
    for (const { field, message } of answer.warnings) note(`${field}: ${message}`);
    const { amount, currency, gpu_seconds } = answer.cost_estimate;
    out.write(`at most ${money(amount, currency)}, for ${gpu_seconds} s of GPU\n`);
  }
  return EXIT.ok;
}

async function status({ client, id, show, out, isJson, signal }: Context): Promise<number> {
  if (id !== '') return show(client.status(id, { signal }));
  for await (const newest of client.list({ pageSize: 1, signal })) return show(newest);
  out.write(isJson ? 'null\n' : 'there are no tasks yet\n');
  return EXIT.ok;
}

async function list({ client, given, out, isJson, signal }: Context): Promise<number> {
  const { since, until, limit = '20' } = given.values;
  if (!/^\d+$/.test(limit)) throw new WrongUsage('--limit: must be a whole number, 0 for all');
  const status = given.values.status as Task['status'] | undefined; // the service says what is allowed
  const most = Number(limit) || Infinity;
  const pageSize = Math.min(most, 100);
  let count = 0;
  if (isJson) out.write('[');
  for await (const task of client.list({ status, since, until, pageSize, signal })) {
    if (count++ >= most) break;
    out.write(isJson ? `${count > 1 ? ',' : ''}\n${JSON.stringify(task)}` : line(task));
    if (count === most) break; // without asking for a page more
  }
  if (isJson) out.write('\n]\n');
  return EXIT.ok;
}

async function download(context: Context): Promise<number> {
  const { client, given, id, out, isJson, note, show, signal } = context;
  readVideo(given);
  checkTarget(given.values.out ?? `${id}.mp4`, given);
  const task = await client.status(id, { signal });
  if (isActive(task.status)) note(`the task is ${task.status}: img2vid watch ${id} --out FILE waits for it`);
  if (task.status !== 'succeeded' || !task.videos) {
    await show(task);
    return EXIT.failed;
  }
  const path = await save(context, task, given.values.out ?? `${id}.mp4`);
  out.write(isJson ? asJson({ path, ...chosen(task, given) }) : `${path}\n`);
  return EXIT.ok;
}

async function usage({ client, given, out, isJson, signal }: Context): Promise<number> {
  const { since, until } = given.values;
  const account = await client.usage({ since, until, signal });
  if (isJson) {
    out.write(asJson(account));
    return EXIT.ok;
  }
  const { currency, month, budget, spent, reserved, left, open_tasks, days } = account;
  const limit = budget === null ? 'no budget' : `${money(left!, currency)} left of ${money(budget, currency)}`;
  out.write(
    `${month}: ${money(spent, currency)} spent, ${money(reserved, currency)} reserved for open tasks (${open_tasks}); ${limit}\n`,
  );
  for (const { day, tasks, succeeded, amount, gpu_seconds } of days)
    out.write(`${day}  ${tasks} tasks, ${succeeded} succeeded, ${gpu_seconds} s of GPU, ${money(amount, currency)}\n`);
  return EXIT.ok;
}

/** @throws FileError the picture can't be read */
async function readParameters({ given, stdin, signal }: Context): Promise<Parameters> {
  const values = parseTextFields(given.fields) as Parameters; // what is no number where one is wanted the service refuses
  const { image } = given.values;
  if (image === undefined) return values;
  if (/^https?:\/\//i.test(image)) return { ...values, image_url: image };
  try {
    const bytes = image === '-' ? await buffer(stdin as NodeJS.ReadableStream) : await readFile(image, { signal });
    return { ...values, image: bytes };
  } catch (error) {
    signal.throwIfAborted();
    const { code, message } = error as NodeJS.ErrnoException;
    throw new FileError(`--image ${image}: ${code === 'ENOENT' ? 'there is no such file' : message}`);
  }
}

/** Which of several videos is meant; undefined: the grid, or the only one. */
function readVideo({ values: { video } }: Given): number | undefined {
  if (video === undefined) return undefined;
  if (!/^([1-9]|10)$/.test(video)) throw new WrongUsage('--video: must be a whole number from 1 to 10');
  return Number(video);
}

function chosen({ grid, videos = [] }: Task, given: Given) {
  const number = readVideo(given);
  const file = number === undefined ? (grid ?? videos[0]) : videos[number - 1];
  if (!file) throw new WrongUsage(`--video ${number}: the task has ${videos.length}`);
  return file;
}

/** @throws FileError it is there already, and not to be overwritten */
function checkTarget(path: string, { switches }: Given): void {
  if (existsSync(path) && !statSync(path).isDirectory() && !switches.has('force'))
    throw new FileError(`${path}: there is such a file; --force overwrites it`);
}

/** Under its name only when it is whole and what the worker made. @returns where it lies */
async function save({ client, given, signal }: Context, task: Task, out: string): Promise<string> {
  const file = chosen(task, given);
  const path = existsSync(out) && statSync(out).isDirectory() ? join(out, `${task.id}.mp4`) : out;
  const part = `${path}.${task.id}.part`;
  try {
    const { body } = await client.download(file, { signal });
    const hash = createHash('sha256');
    const hashing = async function* (chunks: AsyncIterable<Uint8Array>) {
      for await (const chunk of chunks) {
        hash.update(chunk);
        yield chunk;
      }
    };
    await pipeline(body!, hashing, createWriteStream(part), { signal });
    if (hash.digest('hex') !== file.sha256)
      throw new FileError(`${path}: what came is not what the worker made; try again`);
    checkTarget(path, given); // in a folder, or while all this took its time
    await rename(part, path);
    return path;
  } catch (error) {
    await rm(part, { force: true });
    signal.throwIfAborted();
    if (error instanceof ApiError || error instanceof FileError) throw error;
    throw new FileError(`${path}: ${(error as Error).message}`);
  }
}

const asJson = (value: object) => `${JSON.stringify(value, null, 2)}\n`;
const money = (micro: number, currency: string) => `${micro / 1e6} ${currency}`;

/** Where the video is, or how it is doing. */
function briefly({ id, status, grid, videos, error }: Task): string {
  if (videos) return `${(grid ?? videos[0]!).link}\n`;
  return error ? `${error.message} (${error.code})\n` : `${id} ${status}\n`;
}

function line({ id, status, created_at, input }: Task): string {
  const source = input.prompt ?? input.image_url ?? (input.still_of ? `still of ${input.still_of}` : 'a picture');
  return `${id}  ${status.padEnd(9)}  ${created_at.slice(0, 19)}Z  ${source.replace(/\s+/g, ' ').slice(0, 60)}\n`;
}

function inWords(task: Task): string {
  const { id, status, stage, step, steps, progress, eta_seconds, error, videos = [], grid, expired_at, cost } = task;
  const count = step === undefined ? '' : ` ${step} of ${steps}`;
  const left = eta_seconds === undefined ? '' : `, about ${eta_seconds} s left`;
  const how = isActive(status) && stage ? `: ${stage}${count}, ${Math.round(progress * 100)} %${left}` : '';
  const files = (grid ? [grid, ...videos] : videos).map(
    ({ link, width, height, frames, fps, bytes }) =>
      `${link}\n  ${width}×${height}, ${frames} frames at ${fps} a second, ${Math.ceil(bytes / 1000)} kB\n`,
  );
  return [
    `${id} ${status}${how}${error ? `: ${error.message} (${error.code})` : ''}\n`,
    ...files,
    expired_at ? `its files were deleted on ${expired_at}\n` : '',
    cost && cost.amount > 0 ? `it cost ${money(cost.amount, cost.currency)}\n` : '',
  ].join('');
}

function hint({ status, code }: ApiError): string {
  if (status === 0) return '; is it running, and is --url (or IMG2VID_URL) right?';
  return code === 'unauthorized' ? ' (--key, or IMG2VID_API_KEY)' : '';
}

/** Of the process. Ctrl-C ends what waits; a second one ends it at once. */
export async function run(): Promise<void> {
  const stop = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => stop.abort());
  const { env, stdin, stdout: out, stderr: err } = process;
  process.exitCode = await main(process.argv.slice(2), { env, stdin, out, err, signal: stop.signal });
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) await run();
