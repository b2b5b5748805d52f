/** Starts the whole service on this machine, makes one clip through its front door, and stays up. */
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseKeyId } from '../../api/keys/key-value.ts';
import { parameterHelp, parseFlags, UsageError } from '../../client/flags.ts';
import { type ApiError, createClient, type Parameters, type Task } from '../../client/index.ts';
import { progressBar } from '../../client/progress-bar.ts';
import type { ModelName } from '../../core/presets.ts';
import { InvalidRequest, parseRequest, parseTextFields } from '../../core/request.ts';
import { type LocalService, startLocal } from './start.ts';

const USAGE = `npm run demo -- [--prompt TEXT | --image FILE|URL] [--out FILE] [--frames DIR] [--once] [--PARAMETER VALUE …]

  --prompt TEXT    what the still shall show (drawn as a placeholder unless MIDJOURNEY_BRIDGE is set)
  --image FILE|URL the picture to animate; without it and --prompt, the bundled one
  --out FILE       saves the MP4 there as well
  --frames DIR     saves every frame as PNG there, as decoded, before encoding
  --once           ends when the clip is done, instead of staying up
  --PARAMETER      any parameter of POST /img2vid: --seed 23 --T 25 --motion_bucket_id 200 …

Where there are API keys (npm run keys), IMG2VID_API_KEY is the one that the demo uses.`;

const BUNDLED = fileURLToPath(new URL('../../assets/coffee.png', import.meta.url));

interface Arguments {
  fields: [name: string, text: string][];
  image: string | undefined;
  out: string | undefined;
  frames: string | undefined;
  once: boolean;
}

const { IMG2VID_API_KEY, ...env } = process.env;
let apiKey = IMG2VID_API_KEY || undefined;
let service: LocalService | undefined;
let ending = false;
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, async () => {
    if (ending) return;
    ending = true;
    process.stdout.write('\n');
    await service?.stop();
    process.exit(130);
  });
}

try {
  const wanted = readArguments(process.argv.slice(2));
  if (apiKey !== undefined && parseKeyId(apiKey) === undefined)
    throw new Error('IMG2VID_API_KEY is no API key: they begin with i2v_, and npm run keys makes them');
  const parameters = await readParameters(wanted);
  const framesRoot = wanted.frames && (await framesFolder(wanted.frames));
  try {
    service = await startLocal({ env, quiet: true, framesDir: framesRoot, onFirstKey });
    const task = await makeClip(service, parameters);
    await deliver(task, wanted, service, framesRoot);
  } finally {
    if (framesRoot) await rm(framesRoot, { recursive: true, force: true });
  }
  if (wanted.once) {
    await service.stop();
    process.exit(0);
  }
  console.log(`\nThe service stays up at ${service.url} (Ctrl-C ends it). Try:`);
  const curl = apiKey === undefined ? 'curl' : 'curl -H "authorization: Bearer $IMG2VID_API_KEY"';
  console.log(
    `  ${curl} -F image=@${basename(wanted.image ?? 'photo.jpg')} ${service.url}/img2vid\n  ${curl} ${service.url}/status`,
  );
} catch (error) {
  if (!ending) {
    await service?.stop();
    console.error(`\n${error instanceof Error ? error.message : error}`);
    if (error instanceof UsageError) console.error(`\n${USAGE}`);
    process.exit(1);
  }
}

function onFirstKey(text: string) {
  console.log(
    `There was no API key, so here is one, with all scopes. It is shown this once:\n\n  IMG2VID_API_KEY=${text}\n`,
  );
  apiKey = text; // another one would open nothing
}

function readArguments(args: string[]): Arguments {
  const { positionals, values, switches, fields } = parseFlags(args, {
    values: ['image', 'out', 'frames'],
    switches: ['once', 'help'],
  });
  if (switches.has('help')) {
    console.log(`${USAGE}\n\n${parameterHelp()}`);
    process.exit(0);
  }
  if (positionals.length > 0) throw new UsageError(`${positionals[0]}: flags begin with --`);
  const { image, out, frames } = values;
  return { fields, image, out, frames, once: switches.has('once') };
}

/** Checked before anything is started: wrong values and a missing file end here in one line. */
async function readParameters({ fields, image }: Arguments): Promise<Parameters> {
  const limits = { maxFrames: Number(process.env.MAX_FRAMES) || 100, maxFps: Number(process.env.MAX_FPS) || 120 };
  const values = parseTextFields(fields);
  try {
    const model = (process.env.MODEL || 'camera') as ModelName;
    parseRequest(values, { limits, model, hasImage: true, seed: 0 });
  } catch (error) {
    if (error instanceof InvalidRequest)
      throw new Error(error.errors.map(({ field, message }) => `--${field}: ${message}`).join('\n'));
    throw error;
  }
  if (image !== undefined && /^https?:\/\//i.test(image)) return { ...values, image_url: image };
  if (image === undefined && ['prompt', 'image_url', 'still_of'].some((name) => name in values)) return values;
  const path = image ?? BUNDLED;
  const bytes = await readFile(path).catch((error: NodeJS.ErrnoException) => {
    throw new Error(`--image ${path}: ${error.code === 'ENOENT' ? 'there is no such file' : error.message}`);
  });
  return { ...values, image: bytes };
}

/** Frames are gathered beside where they shall be, and moved when they are all there. */
async function framesFolder(dir: string): Promise<string> {
  await mkdir(dir, { recursive: true });
  return mkdtemp(join(resolve(dir), '.frames-'));
}

/** One request through the front door, watched until its end. */
async function makeClip({ url, dataDir }: LocalService, parameters: Parameters): Promise<Task> {
  const client = createClient({ url, key: apiKey });
  const created = await client.img2vid(parameters).catch((error: ApiError) => {
    throw error.code === 'unauthorized' ? new Error(howToGetAKey(dataDir)) : error;
  });
  const bar = progressBar(process.stdout);
  let task = created.answer;
  for (const { field, message } of task.warnings) console.log(`note: ${field}: ${message}`);
  for await (task of created) bar.show(task);
  bar.end(task);
  if (task.status !== 'succeeded')
    throw new Error(`${task.status}${task.error ? `: ${task.error.message} (${task.error.code})` : ''}`);
  return task;
}

function howToGetAKey(dataDir: string): string {
  const folder = dataDir === 'data' ? '' : `DATA_DIR=${dataDir} `;
  return `${apiKey === undefined ? 'there are API keys here, and the demo has none' : 'IMG2VID_API_KEY is not valid here'}; make one for it:
  ${folder}npm run keys -- create --name demo
  ${folder}IMG2VID_API_KEY=i2v_… npm run demo`;
}

async function deliver(
  task: Task,
  { out, frames }: Arguments,
  { dataDir }: LocalService,
  framesRoot: string | undefined,
) {
  const main = task.grid ?? task.videos![0]!;
  const all = [...(task.grid ? [task.grid] : []), ...task.videos!];
  for (const { link, width, height, frames: count, fps, bytes } of all) {
    console.log(`${link}\n  ${width}×${height}, ${count} frames at ${fps} a second, ${Math.ceil(bytes / 1000)} kB`);
    if (!process.env.BUCKET_NAME)
      console.log(`  ${join(dataDir, 'bucket/objects', new URL(link).pathname.replace(/^\/files\//, ''))}`);
  }
  if (out !== undefined) {
    const video = Buffer.from(await (await fetch(main.link)).arrayBuffer());
    const partial = `${out}.part`;
    await writeFile(partial, video);
    await rename(partial, out);
    console.log(`saved ${out}`);
  }
  if (frames !== undefined && framesRoot) {
    const folder = join(framesRoot, task.id);
    const columns = existsSync(folder) ? await readdir(folder) : [];
    for (const column of columns) {
      const target = columns.length > 1 ? join(frames, `video-${column}`) : frames;
      await mkdir(target, { recursive: true });
      for (const name of await readdir(join(folder, column)))
        await rename(join(folder, column, name), join(target, name));
    }
    console.log(`saved ${main.frames} frames of each video in ${frames}`);
  }
}
