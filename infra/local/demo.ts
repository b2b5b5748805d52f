/** Starts the whole service on this machine, makes one clip through its front door, and stays up. */
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { idOf } from '../../api/keys/key.ts';
import type { PresentedTask } from '../../api/tasks/present.ts';
import { fromText, InvalidRequest, readRequest } from '../../handler/request.ts';
import type { ModelName } from '../../handler/svd/presets.ts';
import { progressBar } from './progress-bar.ts';
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
  if (apiKey !== undefined && idOf(apiKey) === undefined)
    throw new Error('IMG2VID_API_KEY is no API key: they begin with i2v_, and npm run keys makes them');
  const form = await requestForm(wanted);
  const framesRoot = wanted.frames && (await framesFolder(wanted.frames));
  try {
    service = await startLocal({ env, quiet: true, framesDir: framesRoot, onFirstKey });
    const task = await makeClip(service, form);
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
  const wanted: Arguments = { fields: [], image: undefined, out: undefined, frames: undefined, once: false };
  for (let i = 0; i < args.length; i++) {
    const [, flag, inline] = /^--([^=]+)(?:=(.*))?$/s.exec(args[i]!) ?? [];
    if (!flag) throw new Error(`${args[i]}: flags begin with --\n\n${USAGE}`);
    if (flag === 'help') {
      console.log(USAGE);
      process.exit(0);
    }
    if (flag === 'once') {
      wanted.once = true;
      continue;
    }
    const value = inline ?? args[++i];
    if (value === undefined) throw new Error(`--${flag} needs a value\n\n${USAGE}`);
    if (flag === 'image' || flag === 'out' || flag === 'frames') wanted[flag] = value;
    else wanted.fields.push([flag.replaceAll('-', '_'), value]);
  }
  return wanted;
}

/** Checked before anything is started: wrong values and a missing file end here in one line. */
async function requestForm({ fields, image }: Arguments): Promise<FormData> {
  const limits = { maxFrames: Number(process.env.MAX_FRAMES) || 100, maxFps: Number(process.env.MAX_FPS) || 120 };
  try {
    readRequest(fromText(fields), {
      limits,
      model: (process.env.MODEL || 'camera') as ModelName,
      hasImage: true,
      seed: 0,
    });
  } catch (error) {
    if (error instanceof InvalidRequest)
      throw new Error(error.errors.map(({ field, message }) => `--${field}: ${message}`).join('\n'));
    throw error;
  }
  const form = new FormData();
  for (const [name, value] of fields) form.append(name, value);
  if (image !== undefined && /^https?:\/\//i.test(image)) {
    form.append('image_url', image);
  } else if (image !== undefined || !fields.some(([name]) => ['prompt', 'image_url', 'still_of'].includes(name))) {
    const path = image ?? BUNDLED;
    const bytes = await readFile(path).catch((error: NodeJS.ErrnoException) => {
      throw new Error(`--image ${path}: ${error.code === 'ENOENT' ? 'there is no such file' : error.message}`);
    });
    form.append('image', new Blob([new Uint8Array(bytes)]), basename(path));
  }
  return form;
}

/** Frames are gathered beside where they shall be, and moved when they are all there. */
async function framesFolder(dir: string): Promise<string> {
  await mkdir(dir, { recursive: true });
  return mkdtemp(join(resolve(dir), '.frames-'));
}

/** One request through the front door, watched until its end. */
async function makeClip({ url, dataDir }: LocalService, form: FormData): Promise<PresentedTask> {
  const headers: Record<string, string> = apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` };
  const response = await fetch(`${url}/img2vid`, { method: 'POST', headers, body: form });
  const created = await response.json();
  if (response.status === 401) throw new Error(howToGetAKey(dataDir));
  if (!response.ok) throw new Error((created as { detail: string }).detail);
  const bar = progressBar(process.stdout);
  let task = created as PresentedTask;
  for (const { field, message } of task.warnings) console.log(`note: ${field}: ${message}`);
  while (task.status === 'queued' || task.status === 'running') {
    bar.show(task);
    await delay(100);
    const answer = await fetch(`${url}/status?id=${task.id}`, { headers }).catch(() => undefined); // the API may be starting again
    if (answer?.ok) task = (await answer.json()) as PresentedTask;
    else if (answer && answer.status < 500 && answer.status !== 429)
      throw new Error(((await answer.json()) as { detail: string }).detail); // such as of a key that may not read
  }
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
  task: PresentedTask,
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
