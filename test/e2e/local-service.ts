import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { PresentedTask } from '../../core/responses.ts';
import { freePort } from '../../infra/run/free-port.ts';
import { importStart } from '../support/programs.ts';

const { startLocal } = await importStart();

export const PICTURE_PATH = fileURLToPath(new URL('../../assets/coffee.png', import.meta.url));
export const PICTURE = new Uint8Array(await readFile(PICTURE_PATH));

export type Fields = Record<string, string | number>;
export type LocalTestService = Awaited<ReturnType<typeof startService>>;

/**
 * Starts the whole service as an operator does on one machine, with an empty data folder: real processes, used over HTTP alone.
 * @param env variables besides PORT and DATA_DIR, or instead of them
 */
export async function startService(env: NodeJS.ProcessEnv = {}) {
  const folder = await mkdtemp(join(tmpdir(), 'e2e-'));
  const common = { PATH: process.env.PATH, PORT: String(await freePort()), DATA_DIR: join(folder, 'data') };
  const removeFolder = () => rm(folder, { recursive: true, force: true });
  const service = await startLocal({ env: { ...common, ...env }, quiet: true }).catch(async (error) => {
    await removeFolder();
    throw error;
  });

  /** Posts the picture, or a prompt if the fields have one. @throws Error if the task is not accepted */
  async function post(fields: Fields): Promise<PresentedTask> {
    const form = new FormData();
    if (!('prompt' in fields || 'still_of' in fields || 'image_url' in fields))
      form.append('image', new Blob([PICTURE]));
    for (const [name, value] of Object.entries(fields)) form.append(name, String(value));
    const response = await fetch(`${service.url}/img2vid`, { method: 'POST', body: form });
    const task = await response.json();
    if (response.status !== 202) throw new Error(`a post was answered ${response.status}: ${JSON.stringify(task)}`);
    return task;
  }

  /** Follows a task to its end, through restarts of the API. Its events end with it, and cost the machine less than many requests. */
  async function waitForEnd(id: string): Promise<PresentedTask> {
    const url = `${service.url}/status?id=${id}`;
    for (;;) {
      const task: PresentedTask | undefined = await fetch(url, { headers: { accept: 'text/event-stream' } })
        .then((events) => events.text())
        .then(() => fetch(url))
        .then((response) => response.json())
        .catch(() => undefined); // the API is being restarted
      if (task?.finished_at) return task;
      await delay(20);
    }
  }

  return {
    ...service,
    post,
    waitForEnd,
    make: async (fields: Fields) => waitForEnd((await post(fields)).id),
    async stop() {
      await service.stop();
      await removeFolder();
    },
  };
}
