/** The callers of a chaos trial. Each posts, and posts again what broke off, until it is accepted; then it follows its task to the end. */
import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import type { PresentedTask, Usage } from '../../../core/responses.ts';
import { HOUR, SECOND } from '../../../core/time.ts';
import type { ApiProcess } from '../../e2e/harness.ts';
import { chooser } from '../prng.ts';
import type { Kills } from './kills.ts';
import { violationOf } from './money.ts';
import { type Counts, count, isEnded, type Plan } from './observations.ts';
import type { Owner } from './owners.ts';
import type { Trial } from './trial.ts';

/** Callers at the same time. */
const CONCURRENCY = 10;
/** Share of the tasks that are cancelled. */
const CANCELS = 0.15;
const PICTURE = new Uint8Array(await readFile(new URL('../../../assets/coffee.png', import.meta.url)));

export class Callers {
  /** tasks whose callers still wait for something */
  readonly waiting = new Set<string>();
  /** posts that broke off */
  broken = 0;
  /** posts that were answered 402, by key name */
  readonly refused: Counts = {};

  constructor(
    private readonly trial: Trial,
    private readonly kills: Kills,
    private readonly webhookUrl: string,
  ) {}

  /** Runs so many callers, ten at a time. @param isDue whether it is time for the n-th */
  async run(count: number, isDue: (n: number) => boolean): Promise<void> {
    let next = 0;
    const runSome = async () => {
      for (let n = next++; n < count; n = next++) {
        await this.trial.harness.waitFor(() => isDue(n), 'time for a post', HOUR);
        await this.#call(n);
      }
    };
    await Promise.all(Array.from({ length: Math.min(count, CONCURRENCY) }, runSome));
  }

  /** One caller, from its post to the task's end. */
  async #call(n: number): Promise<void> {
    const { harness, observations, owners, stream } = this.trial;
    const { plans, hasEnded, webhooks } = observations;
    const random = stream(`caller ${n}`);
    const choose = chooser(random);
    const hasWebhook = random() < 0.5;
    const plan: Plan = {
      owner: owners[n % owners.length]!,
      kind: choose(['prompt', 'banned', 'picture', 'picture', 'picture', 'picture'] as const),
      columns: random() < 0.3 ? 2 : 1,
      hasWebhook,
      follows: choose(['by polling', 'by events', hasWebhook ? 'by its webhook' : 'by events'] as const),
      cancels: random() < CANCELS ? choose(['at once', 'while it runs'] as const) : undefined,
    };
    const id = await this.#post(plan, n, random);
    plans.set(id, plan);
    this.waiting.add(id);
    if (plan.cancels === 'at once') await this.#cancel(id, plan, random);
    if (n % 4 === 0) await this.#tryOthersKey(id, plan, random);
    await this.#checkUsage(plan, random);
    if (plan.follows === 'by polling') await this.#poll(id, plan, random);
    if (plan.follows === 'by events') await this.#watch(id, plan, random);
    const isDone = () => hasEnded(id) && (!hasWebhook || webhooks.get(id)?.accepted);
    await harness.waitFor(isDone, `the end of ${id}`, HOUR);
    this.waiting.delete(id);
    await this.#checkUsage(plan, random);
  }

  /** Any API that is up. */
  #anApi(random: () => number): Promise<ApiProcess> {
    const { harness, running } = this.trial;
    const choose = () => {
      const up = running.api().filter(this.kills.isUp);
      return up.length > 0 && chooser(random)(up);
    };
    return harness.waitFor(choose, 'an API process', 120 * SECOND);
  }

  /** The answer of this API, or of any; undefined where the connection broke. */
  async #ask<Body = PresentedTask>(
    { headers: key }: Owner,
    path: string,
    random: () => number,
    { api, headers, ...init }: RequestInit & { api?: ApiProcess } = {},
  ) {
    const { url } = api ?? (await this.#anApi(random));
    const askedAt = performance.now();
    try {
      const response = await fetch(url + path, { ...init, headers: { ...key, ...headers } });
      return { status: response.status, body: (await response.json()) as Body, askedAt };
    } catch {
      return undefined; // it died
    }
  }

  /**
   * Repeats a post that broke off, with the same idempotency key, and one that was refused, perhaps with another API key.
   * @returns the task's id, once the post is accepted
   */
  async #post(plan: Plan, n: number, random: () => number): Promise<string> {
    const { kind, columns, hasWebhook, cancels } = plan;
    const { observations } = this.trial;
    const length = cancels === 'while it runs' ? { T: '60', steps: '20' } : { T: '2', steps: '1' }; // long enough to run
    const prompt = { prompt: `number ${n}`, banned: 'something BANNED_PROMPT', picture: undefined }[kind];
    const fields = {
      ...{ H: '64', W: '64', ...length, seed: String(n), num_cols: String(columns) },
      ...(prompt && { prompt }),
    };
    for (;;) {
      const { owner } = plan;
      const api = await this.#anApi(random);
      const body = new FormData();
      for (const [name, value] of Object.entries(fields)) body.append(name, value);
      if (hasWebhook) body.append('webhook_url', `${this.webhookUrl}/${owner.name}`);
      if (kind === 'picture') body.append('image', new Blob([PICTURE]), 'image.png');
      const init = { api, method: 'POST', headers: { 'idempotency-key': `caller-${n}` }, body };
      const asking = this.#ask<PresentedTask & { detail?: string }>(owner, '/img2vid', random, init);
      setTimeout(() => this.kills.killAt('posting', api), 40 * Math.random());
      const answer = await asking;
      if (answer?.status === 202) {
        observations.seeTask(answer.body, 'the post', answer.askedAt);
        return answer.body.id;
      }
      if (answer?.status === 402 && owner.budget !== null) await this.#waitForMoney(plan, answer.body.detail!);
      else if (answer) throw new Error(`a post was answered ${answer.status}: ${JSON.stringify(answer.body)}`);
      else this.broken++;
    }
  }

  /** Waits until an active task of the same key has ended, if there is one; else the first owner pays. */
  async #waitForMoney(plan: Plan, detail: string): Promise<void> {
    const { harness, observations, owners } = this.trial;
    const { owner } = plan;
    count(this.refused, owner.name);
    const [cost, left] = [...detail.matchAll(/([\d.]+) USD/g)].map(([, units]) => Number(units));
    if (!(cost! > left!)) observations.addViolation(`${owner.name} was refused: ${detail}`);
    const active = () =>
      [...observations.plans].filter(([id, plan]) => plan.owner === owner && !observations.hasEnded(id)).length;
    const before = active();
    if (before === 0) plan.owner = owners[0]!;
    else await harness.waitFor(() => active() < before, `an end of a task of ${owner.name}`, HOUR);
  }

  async #checkUsage({ owner }: Plan, random: () => number): Promise<void> {
    const answer = await this.#ask<Usage>(owner, '/usage', random);
    if (!answer) return;
    const violation = answer.status === 200 ? violationOf(answer.body, owner) : `/usage: ${answer.status}`;
    if (violation) this.trial.observations.addViolation(violation);
  }

  /** With another owner's key the task does not exist. */
  async #tryOthersKey(id: string, plan: Plan, random: () => number): Promise<void> {
    const other = chooser(random)(this.trial.owners.filter((owner) => owner !== plan.owner));
    const answers = [
      await this.#ask(other, `/status?id=${id}`, random),
      await this.#ask(other, `/cancel?id=${id}`, random, { method: 'POST' }),
    ];
    for (const answer of answers)
      if (answer && answer.status !== 404)
        this.trial.observations.addViolation(`${id} of ${plan.owner.name}: ${other.name} got ${answer.status}`);
  }

  async #cancel(id: string, { owner }: Plan, random: () => number): Promise<void> {
    const { observations } = this.trial;
    observations.cancelled.add(id);
    for (;;) {
      const answer = await this.#ask(owner, `/cancel?id=${id}`, random, { method: 'POST' });
      if (answer?.status === 202) return observations.seeTask(answer.body, 'the cancel', answer.askedAt);
      if (answer?.status === 409) return; // it has ended otherwise
      if (answer) throw new Error(`a cancel was answered ${answer.status}`);
    }
  }

  /** @returns a listener for every state that the caller gets, in order */
  #follower(id: string, plan: Plan, random: () => number, by: string) {
    const { observations } = this.trial;
    let progress = 0;
    return async (task: PresentedTask, askedAt: number) => {
      observations.seeTask(task, by, askedAt);
      if (task.progress < progress)
        observations.addViolation(`${id}: progress fell from ${progress} to ${task.progress}`);
      progress = task.progress;
      if (plan.cancels === 'while it runs' && task.status === 'running' && !observations.cancelled.has(id))
        await this.#cancel(id, plan, random);
    };
  }

  async #poll(id: string, plan: Plan, random: () => number): Promise<void> {
    const { hasEnded, addViolation } = this.trial.observations;
    const follow = this.#follower(id, plan, random, 'a poll');
    while (!hasEnded(id)) {
      await delay(50 + 100 * random()); // as callers do
      if (random() < 0.1) await this.#checkUsage(plan, random);
      const answer = await this.#ask(plan.owner, `/status?id=${id}`, random);
      if (answer?.status === 200) await follow(answer.body, answer.askedAt);
      else if (answer) addViolation(`${id}: its status was answered ${answer.status}`);
    }
  }

  /** Follows events; when an API dies, another one, or the next, goes on where it stopped. */
  async #watch(id: string, plan: Plan, random: () => number): Promise<void> {
    const follow = this.#follower(id, plan, random, 'events');
    for (let last = ''; ; ) {
      const api = await this.#anApi(random);
      const askedAt = performance.now();
      const headers = { ...plan.owner.headers, accept: 'text/event-stream', ...(last && { 'last-event-id': last }) };
      const response = await fetch(`${api.url}/status?id=${id}`, { headers }).catch(() => undefined);
      const parts = response?.body?.pipeThrough(new TextDecoderStream()).getReader();
      let text = '';
      for (;;) {
        const part = await parts?.read().catch(() => undefined);
        if (!part?.value) break; // it died
        text += part.value;
        const events = text.split('\n\n');
        text = events.pop()!;
        for (const event of events) {
          const fields = Object.fromEntries(
            [...event.matchAll(/^(\w+): (.*)$/gm)].map(([, name, value]) => [name, value]),
          );
          if (fields.data === undefined) continue; // a comment
          last = fields.id ?? '';
          const task = JSON.parse(fields.data) as PresentedTask;
          await follow(task, askedAt);
          if (isEnded(task)) return;
        }
      }
    }
  }
}
