/** The callers of a chaos trial: each posts, and posts again what broke off, until it is accepted; then it wants to know the end. */
import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { Hono } from 'hono';
import { Webhook } from 'standardwebhooks';
import type { PresentedTask } from '../../../core/responses.ts';
import { HOUR, SECOND } from '../../../core/time.ts';
import type { ApiProcess, Scene } from '../../e2e/fault-injection.ts';
import { listen } from '../../support/test-api.ts';
import { chooser, type Storm } from './faults.ts';
import { type Counts, count, isEnded, type Ledger, type Plan } from './ledger.ts';
import { type Usage, wrongOf } from './money.ts';
import type { Owner } from './owners.ts';

export interface CallersOptions {
  scene: Scene;
  ledger: Ledger;
  storm: Storm;
  /** whose turn it is in turn; the first pays for what others can't */
  owners: Owner[];
  apis: () => ApiProcess[];
  /** share that cancels, 0–1 */
  cancels: number;
  stream: (name: string) => () => number;
}

type Choose = ReturnType<typeof chooser>;

export async function createCallers({ scene, ledger, storm, owners, apis, cancels, stream }: CallersOptions) {
  const { plans, cancelled, see, find } = ledger;
  const picture = await readFile(new URL('../../../assets/coffee.png', import.meta.url));
  const webhooks = { heard: 0, refused: 0 };
  const waiting = new Set<string>();
  const refused: Counts = {};
  let broken = 0;

  const refuses = stream('webhooks');
  const receiver = await listen(
    new Hono().post('/:owner', async (c) => {
      const body = await c.req.text();
      const { type, data } = JSON.parse(body) as { type: string; data: PresentedTask };
      const header = (name: string) => c.req.header(`webhook-${name}`) ?? 'none';
      const { secret } = owners.find(({ name }) => name === c.req.param('owner'))!;
      const at = new Date(Number(header('timestamp')) * SECOND); // by the fast clock: too far ahead for `verify`
      if (header('signature') !== new Webhook(secret).sign(header('id'), at, body))
        find(`${data.id}: its webhook is signed ${header('signature')}`);
      const isFirst = ledger.announced(data, type, header('id'));
      see(data, 'a webhook', performance.now());
      const announcing = apis().find(({ id }) => body.includes(`/${id}/files/`)) ?? apis().find(storm.isUp);
      const isDying = storm.strike('announcing', announcing);
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

  /** An answer, about a task if nothing else is said, or undefined where the connection broke. */
  async function ask<Body = PresentedTask>(
    api: ApiProcess,
    owner: Owner,
    path: string,
    { headers, ...init }: { method?: 'POST'; headers?: Record<string, string>; body?: FormData } = {},
  ) {
    const asked = performance.now();
    try {
      const response = await fetch(api.url + path, { ...init, headers: { ...owner.headers, ...headers } });
      return { status: response.status, body: (await response.json()) as Body, asked };
    } catch {
      return undefined; // it died
    }
  }

  /**
   * Repeats a post that broke off, with the same idempotency key, and one that was refused, perhaps with another's API key.
   * @returns the id, when it has heard that the task is accepted
   */
  async function post(plan: Plan, n: number, choose: Choose): Promise<string> {
    const { kind, columns, hook, cancels } = plan;
    const length = cancels === 'while it runs' ? { T: '60', steps: '20' } : { T: '2', steps: '1' }; // so that it does run
    const prompt = { prompt: `number ${n}`, banned: 'something BANNED_PROMPT', picture: undefined }[kind];
    const fields = {
      ...{ H: '64', W: '64', ...length, seed: String(n), num_cols: String(columns) },
      ...(prompt && { prompt }),
    };
    for (;;) {
      const { owner } = plan;
      const api = await anApi(choose);
      const body = new FormData();
      for (const [name, value] of Object.entries(fields)) body.append(name, value);
      if (hook) body.append('webhook_url', `${receiver.url}/${owner.name}`);
      if (kind === 'picture') body.append('image', new Blob([new Uint8Array(picture)]), 'image.png');
      const asking = ask<PresentedTask & { detail?: string }>(api, owner, '/img2vid', {
        method: 'POST',
        headers: { 'idempotency-key': `caller-${n}` },
        body,
      });
      setTimeout(() => storm.strike('posting', api), 40 * Math.random());
      const answer = await asking;
      if (answer?.status === 202) {
        see(answer.body, 'who posted it', answer.asked);
        return answer.body.id;
      }
      if (answer?.status === 402 && owner.budget !== null) await refuse(plan, answer.body.detail!);
      else if (answer) throw new Error(`a post was answered ${answer.status}: ${JSON.stringify(answer.body)}`);
      else broken++;
    }
  }

  /** Who has not money enough waits until a task of the same key has ended, if any is open; else somebody else pays. */
  async function refuse(plan: Plan, detail: string): Promise<void> {
    const { owner } = plan;
    count(refused, owner.name);
    const [cost, left] = [...detail.matchAll(/([\d.]+) USD/g)].map(([, units]) => Number(units));
    if (!(cost! > left!)) find(`${owner.name} was refused: ${detail}`);
    const open = () => [...plans].filter(([id, plan]) => plan.owner === owner && !ledger.hasEnded(id)).length;
    const before = open();
    if (before === 0) plan.owner = owners[0]!;
    else await scene.until(() => open() < before, `an end of a task of ${owner.name}`, HOUR);
  }

  async function lookAtUsage({ owner }: Plan, choose: Choose): Promise<void> {
    const answer = await ask<Usage>(await anApi(choose), owner, '/usage');
    const wrong = answer && (answer.status === 200 ? wrongOf(answer.body, owner) : `/usage: ${answer.status}`);
    if (wrong) find(wrong);
  }

  /** Somebody else's task is as good as none. */
  async function pry(id: string, plan: Plan, choose: Choose): Promise<void> {
    const other = choose(owners.filter((owner) => owner !== plan.owner));
    const answers = [
      await ask(await anApi(choose), other, `/status?id=${id}`),
      await ask(await anApi(choose), other, `/cancel?id=${id}`, { method: 'POST' }),
    ];
    for (const answer of answers)
      if (answer && answer.status !== 404)
        find(`${id}, a task of ${plan.owner.name}: ${other.name} was answered ${answer.status}`);
  }

  async function cancel(id: string, { owner }: Plan, choose: Choose): Promise<void> {
    cancelled.add(id);
    for (;;) {
      const answer = await ask(await anApi(choose), owner, `/cancel?id=${id}`, { method: 'POST' });
      if (answer?.status === 202) return see(answer.body, 'who cancelled it', answer.asked);
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
      if (plan.cancels === 'while it runs' && task.status === 'running' && !cancelled.has(id))
        await cancel(id, plan, choose);
    };
  }

  async function poll(id: string, plan: Plan, choose: Choose, random: () => number) {
    const follow = follower(id, plan, choose, 'who polls');
    while (!ledger.hasEnded(id)) {
      await delay(50 + 100 * random()); // as callers do
      if (random() < 0.1) await lookAtUsage(plan, choose);
      const answer = await ask(await anApi(choose), plan.owner, `/status?id=${id}`);
      if (answer?.status === 200) await follow(answer.body, answer.asked);
      else if (answer) find(`${id}: its status was answered ${answer.status}`);
    }
  }

  async function watch(id: string, plan: Plan, choose: Choose) {
    const follow = follower(id, plan, choose, 'who watches');
    for (let last = ''; ; ) {
      const api = await anApi(choose);
      const asked = performance.now();
      const headers = { ...plan.owner.headers, accept: 'text/event-stream', ...(last && { 'last-event-id': last }) };
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
      owner: owners[n % owners.length]!,
      kind: choose(['prompt', 'banned', 'picture', 'picture', 'picture', 'picture'] as const),
      columns: random() < 0.3 ? 2 : 1,
      hook,
      hears: choose(['by polling', 'by events', hook ? 'by its webhook' : 'by events'] as const),
      cancels: random() < cancels ? choose(['at once', 'while it runs'] as const) : undefined,
    };
    const id = await post(plan, n, choose);
    plans.set(id, plan);
    waiting.add(id);
    if (plan.cancels === 'at once') await cancel(id, plan, choose);
    if (n % 4 === 0) await pry(id, plan, choose);
    await lookAtUsage(plan, choose);
    if (plan.hears === 'by polling') await poll(id, plan, choose, random);
    if (plan.hears === 'by events') await watch(id, plan, choose);
    await scene.until(
      () => ledger.hasEnded(id) && (!hook || ledger.deliveries.get(id)?.heard),
      `the end of ${id}`,
      HOUR,
    );
    waiting.delete(id);
    await lookAtUsage(plan, choose);
  }

  return {
    webhooks,
    /** tasks of which their callers have not yet heard all that they wait for */
    waiting,
    /** posts that broke off */
    broken: () => broken,
    /** posts that were answered 402, by the key's name */
    refused,

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
