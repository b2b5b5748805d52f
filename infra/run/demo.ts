/** `npm run demo`: starts the whole service on this machine, makes one clip through its API, and keeps the service running. */
import { cp, mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseKeyId } from '../../api/keys/key-value.ts';
import { formatTask } from '../../client/cli-format.ts';
import { checkOutput, readPicture, saveVideo, userPath } from '../../client/files.ts';
import { parameterHelp, parseFlags, UsageError } from '../../client/flags.ts';
import { type ApiError, type Client, createClient, type Parameters, type Task } from '../../client/index.ts';
import { progressBar } from '../../client/progress-bar.ts';
import { formatCount } from '../../core/format.ts';
import { InvalidRequest } from '../../core/invalid-request.ts';
import type { ModelName } from '../../core/presets.ts';
import { parseRequest } from '../../core/request.ts';
import { ignoreOutputErrors } from '../../core/standard-output.ts';
import { parseTextFields } from '../../core/text-fields.ts';
import { type LocalService, startLocal } from './start.ts';

const USAGE = `npm run demo -- [--prompt TEXT | --image FILE|URL] [--out FILE] [--frames DIR] [--once] [--PARAMETER VALUE …]

  --prompt TEXT    what the picture should show; without STILL_BRIDGE the demo draws a placeholder
  --image FILE|URL the picture to animate; default: a bundled picture
  --out FILE       also saves the MP4 there
  --frames DIR     saves every frame there as PNG, before encoding
  --once           ends the service after the clip, and prints its file but no link
  --PARAMETER      any parameter of POST /img2vid: --seed 23 --T 25 --motion_bucket_id 200 …

If the service has API keys (npm run keys), set IMG2VID_API_KEY to one of them.`;

const BUNDLED_PICTURE = fileURLToPath(new URL('../../assets/coffee.png', import.meta.url));

ignoreOutputErrors();
const { IMG2VID_API_KEY, ...env } = process.env;
let apiKey = IMG2VID_API_KEY || undefined;
let service: LocalService | undefined;
let isStopping = false;
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, async () => {
    if (isStopping) return;
    isStopping = true;
    process.stdout.write('\n');
    await service?.stop();
    process.exit(130);
  });
}

try {
  await run();
} catch (error) {
  if (!isStopping) {
    await service?.stop();
    console.error(`\n${error instanceof Error ? error.message : error}`);
    if (error instanceof UsageError) console.error(`\n${USAGE}`);
    process.exit(1);
  }
}

async function run(): Promise<void> {
  const { positionals, values, switches, fields } = parseFlags(process.argv.slice(2), {
    values: ['image', 'out', 'frames'],
    switches: ['once', 'help'],
  });
  if (switches.has('help')) {
    console.log(`${USAGE}\n\n${parameterHelp()}`);
    return;
  }
  if (positionals.length > 0) throw new UsageError(`${positionals[0]}: flags begin with --`);
  if (apiKey !== undefined && parseKeyId(apiKey) === undefined)
    throw new Error('IMG2VID_API_KEY must be an API key, which begins with i2v_; npm run keys -- create makes one');
  const parameters = await readParameters(fields, values.image); // before anything is started
  const path = values.out && userPath(values.out, env);
  if (path) checkOutput(path, true);
  const frames = values.frames && userPath(values.frames, env);
  if (frames) await mkdir(frames, { recursive: true });
  const framesDir = values.frames === undefined ? undefined : await mkdtemp(join(tmpdir(), 'frames-'));
  try {
    service = await startLocal({ env, quiet: true, framesDir, onFirstKey });
    const client = createClient({ url: service.url, key: apiKey });
    const task = await makeClip(client, service.dataDir, parameters, switches.has('once'));
    const video = task.grid ?? task.videos![0]!;
    if (path) console.log(`saved ${await saveVideo({ client, task, video, path, force: true })}`);
    if (framesDir !== undefined) await saveFrames(join(framesDir, task.id), frames!);
  } finally {
    if (framesDir !== undefined) await rm(framesDir, { recursive: true });
  }
  if (switches.has('once')) {
    await service.stop();
    process.exit(0);
  }
  const { url } = service;
  const curl = apiKey === undefined ? 'curl' : 'curl -H "authorization: Bearer $IMG2VID_API_KEY"';
  const picture = basename(values.image ?? 'photo.jpg');
  console.log(`\nOpen ${url} in a browser to make more clips. Ctrl-C ends the service. Or try:
  ${curl} -F image=@${picture} ${url}/img2vid\n  ${curl} ${url}/status`);
}

function onFirstKey(key: string) {
  console.log(
    `There was no API key, so one with all scopes was created. It is printed only now:\n\n  IMG2VID_API_KEY=${key}\n`,
  );
  apiKey = key; // the one in the environment can’t be valid
}

/** @throws Error in one line for wrong values and a missing file */
async function readParameters(fields: [string, string][], image: string | undefined): Promise<Parameters> {
  const limits = { maxFrames: Number(env.MAX_FRAMES) || 100, maxFps: Number(env.MAX_FPS) || 120 };
  const values = parseTextFields(fields);
  try {
    parseRequest(values, { limits, model: (env.MODEL || 'camera') as ModelName, hasImage: true, seed: 0 });
  } catch (error) {
    if (!(error instanceof InvalidRequest)) throw error;
    throw new Error(error.errors.map(({ field, message }) => `--${field}: ${message}`).join('\n'));
  }
  if (image !== undefined && /^https?:\/\//i.test(image)) return { ...values, image_url: image };
  if (image === undefined && ['prompt', 'image_url', 'still_of'].some((name) => name in values)) return values;
  return { ...values, image: await readPicture(image ?? BUNDLED_PICTURE, env) };
}

/** Makes a clip through the API and prints its progress, links and files. @param isOnce the service ends after the clip */
async function makeClip(client: Client, dataDir: string, parameters: Parameters, isOnce: boolean): Promise<Task> {
  const followed = await client.img2vid(parameters).catch((error: ApiError) => {
    throw error.code === 'unauthorized' ? new Error(howToGetKey(dataDir)) : error;
  });
  const bar = progressBar(process.stdout);
  let task = followed.answer;
  for (const { field, message } of task.warnings) console.log(`note: ${field}: ${message}`);
  for await (task of followed) bar.show(task);
  bar.end(task);
  if (task.status !== 'succeeded')
    throw new Error(`${task.status}${task.error ? `: ${task.error.message} (${task.error.code})` : ''}`);
  const text = formatTask(task);
  const isDead = isOnce && !env.BUCKET_NAME; // a link leads to the service
  process.stdout.write(isDead ? text.replace(/^https?:.*\n/gm, '') : text);
  if (!env.BUCKET_NAME)
    for (const { link } of task.grid ? [task.grid, ...task.videos!] : task.videos!)
      console.log(`  ${join(dataDir, 'bucket/objects', new URL(link).pathname.replace(/^\/files\//, ''))}`);
  return task;
}

function howToGetKey(dataDir: string): string {
  const folder = dataDir === 'data' ? '' : `DATA_DIR=${dataDir} `;
  const reason =
    apiKey === undefined ? 'the service has API keys, and the demo needs one' : 'IMG2VID_API_KEY is not valid here';
  return `${reason}; create one:
  ${folder}npm run keys -- create --name demo
  ${folder}IMG2VID_API_KEY=i2v_… npm run demo`;
}

/** @param source has a folder of frames for each video. @param target gets the frames, or of several videos a folder for each */
async function saveFrames(source: string, target: string): Promise<void> {
  const videos = await readdir(source);
  for (const video of videos)
    await cp(join(source, video), videos.length > 1 ? join(target, `video-${video}`) : target, { recursive: true });
  console.log(`saved the frames of ${formatCount(videos.length, 'video')} in ${target}`);
}
