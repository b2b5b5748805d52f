/** The callers of a chaos trial: each posts, and posts again what broke off, until it is accepted; then it wants to know the end. */
import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { Hono } from 'hono';
import type { PresentedTask } from '../../../api/tasks/present.ts';
import { listen } from '../../../api/testing.ts';
import type { ApiProcess, Scene } from '../../e2e/faulty.ts';
import { isEnded, type Ledger, type Plan } from './ledger.ts';
import { chooser, type Storm } from './storm.ts';

const SECOND = 1000;
const HOUR = 3600 * SECOND;

export interface CallersOptions {
  scene: Scene;
  ledger: Ledger;
  storm: Storm;
  apis: () => ApiProcess[];
  /** share that cancels, 0–1 */
  cancels: number;
  stream: (name: string) => () => number;
}

type Choose = ReturnType<typeof chooser>;

export async function createCallers({ scene, ledger, storm, apis, cancels, stream }: CallersOptions) {
  const { plans, cancelled, see, find } = ledger;
  const picture = await readFile(new URL('../../../assets/coffee.png', import.meta.url));
  const webhooks = { heard: 0, refused: 0 };
  const waiting = new Set<string>();
  let broken = 0;

  const refuses = stream('webhooks');
  const receiver = await listen(
    new Hono().post('/', async (c) => {
      const { type, data } = (await c.req.json()) as { type: string; data: PresentedTask };
      const isFirst = ledger.announced(data, type, c.req.header('webhook-id') ?? 'none');
      see(data, 'a webhook', performance.now());
      const isDying = storm.strike('announcing', apis().find(storm.isUp));
      const isHeard = !isDying && !(isFirst && refuses() < 0.3);
      webhooks[isHeard ? 'heard' : 'refused']++;
      if (isHeard) ledger.deliveries.get(data.id)!.heard++;
      scene.changed();
      return c.body(null, isHeard ? 204 : 500);
    }),
  );

  /** One that is up. */
  const anApi = (choose: Choose) =>
    scene.until(
      () => {
        const up = apis().filter(storm.isUp);
        return up.length > 0 && choose(up);
      },
      'an API process',
      120 * SECOND,
    );

  /** An answer about a task, or undefined where the connection broke. */
  async function ask(api: ApiProcess, path: string, init?: RequestInit) {
    const asked = performance.now();
    try {
      const response = await fetch(api.url + path, init);
      return { status: response.status, task: (await response.json()) as PresentedTask, asked };
    } catch {
      return undefined; // it died
    }
  }

  /** Repeats a post that broke off, with the same key. @returns the id, when it has heard that the task is accepted */
  async function post({ kind, columns, hook }: Plan, n: number, choose: Choose): Promise<string> {
    const prompt = { prompt: `number ${n}`, banned: 'something BANNED_PROMPT', picture: undefined }[kind];
    const fields = {
      ...{ H: '64', W: '64', T: '2', steps: '1', seed: String(n), num_cols: String(columns) },
      ...(prompt && { prompt }),
      ...(hook && { webhook_url: `${receiver.url}/` }),
    };
    for (;;) {
      const api = await anApi(choose);
      const body = new FormData();
      for (const [name, value] of Object.entries(fields)) body.append(name, value);
      if (kind === 'picture') body.append('image', new Blob([new Uint8Array(picture)]), 'image.png');
      const asking = ask(api, '/img2vid', { method: 'POST', headers: { 'idempotency-key': `caller-${n}` }, body });
      setTimeout(() => storm.strike('posting', api), 40 * Math.random());
      const answer = await asking;
      if (answer?.status === 202) {
        see(answer.task, 'who posted it', answer.asked);
        return answer.task.id;
      }
      if (answer) throw new Error(`a post was answered ${answer.status}: ${JSON.stringify(answer.task)}`);
      broken++;
    }
  }

  async function cancel(id: string, choose: Choose): Promise<void> {
    cancelled.add(id);
    for (;;) {
      const answer = await ask(await anApi(choose), `/cancel?id=${id}`, { method: 'POST' });
      if (answer?.status === 202) return see(answer.task, 'who cancelled it', answer.asked);
      if (answer?.status === 409) return; // it has ended otherwise
      if (answer) throw new Error(`a cancel was answered ${answer.status}`);
    }
  }

  /** @returns a listener to every state that a caller is shown in turn */
  function follower(id: string, plan: Plan, choose: Choose, by: string) {
    let progress = 0;
    return async (task: PresentedTask, asked: number) => {
      see(task, by, asked);
      if (task.progress < progress) find(`${id}: progress fell from ${progress} to ${task.progress}`);
      progress = task.progress;
      if (plan.cancels === 'while it runs' && task.status === 'running' && !cancelled.has(id)) await cancel(id, choose);
    };
  }

  async function poll(id: string, plan: Plan, choose: Choose, random: () => number) {
    const follow = follower(id, plan, choose, 'who polls');
    while (!ledger.hasEnded(id)) {
      await delay(50 + 100 * random()); // as callers do
      const answer = await ask(await anApi(choose), `/status?id=${id}`);
      if (answer?.status === 200) await follow(answer.task, answer.asked);
      else if (answer) find(`${id}: its status was answered ${answer.status}`);
    }
  }

  async function watch(id: string, plan: Plan, choose: Choose) {
    const follow = follower(id, plan, choose, 'who watches');
    for (let last = ''; ; ) {
      const api = await anApi(choose);
      const asked = performance.now();
      const headers = { accept: 'text/event-stream', ...(last && { 'last-event-id': last }) };
      const response = await fetch(`${api.url}/status?id=${id}`, { headers }).catch(() => undefined);
      let text = '';
      const parts = response?.body?.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const part = await parts?.read().catch(() => undefined);
        if (!part?.value) break; // it died: the other, or the next, goes on
        text += part.value;
        const whole = text.split('\n\n');
        text = whole.pop()!;
        for (const event of whole) {
          const { data, id = '' } = fieldsOf(event);
          if (data === undefined) continue; // a sign of life
          last = id;
          const task = JSON.parse(data) as PresentedTask;
          await follow(task, asked);
          if (isEnded(task)) return;
        }
      }
    }
  }

  async function caller(n: number): Promise<void> {
    const random = stream(`caller ${n}`);
    const choose = chooser(random);
    const hook = random() < 0.5;
    const plan: Plan = {
      kind: choose(['prompt', 'banned', 'picture', 'picture', 'picture', 'picture'] as const),
      columns: random() < 0.3 ? 2 : 1,
      hook,
      hears: choose(['by polling', 'by events', hook ? 'by its webhook' : 'by events'] as const),
      cancels: random() < cancels ? choose(['at once', 'while it runs'] as const) : undefined,
    };
    const id = await post(plan, n, choose);
    plans.set(id, plan);
    waiting.add(id);
    if (plan.cancels === 'at once') await cancel(id, choose);
    if (plan.hears === 'by polling') await poll(id, plan, choose, random);
    if (plan.hears === 'by events') await watch(id, plan, choose);
    await scene.until(
      () => ledger.hasEnded(id) && (!hook || ledger.deliveries.get(id)?.heard),
      `the end of ${id}`,
      HOUR,
    );
    waiting.delete(id);
  }

  return {
    webhooks,
    /** tasks of which their callers have not yet heard all that they wait for */
    waiting,
    /** posts that broke off */
    broken: () => broken,

    /** So many callers, ten at once. @param due whether it is time for the n-th */
    async all(count: number, due: (n: number) => boolean): Promise<void> {
      let next = 0;
      async function some() {
        for (let n = next++; n < count; n = next++) {
          await scene.until(() => due(n), 'time for a post', HOUR);
          await caller(n);
        }
      }
      await Promise.all(Array.from({ length: Math.min(count, 10) }, some));
    },

    close: receiver.close,
  };
}

/** Of a server-sent event. */
function fieldsOf(event: string): Record<string, string> {
  return Object.fromEntries([...event.matchAll(/^(\w+): (.*)$/gm)].map(([, name, value]) => [name, value]));
}
