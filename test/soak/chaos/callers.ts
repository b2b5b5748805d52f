/** The callers of a chaos trial. Each posts, and posts again what broke off, until it is accepted; then it follows its task to the end. */
import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { followEvents } from '../../../client/events.js';
import type { PresentedTask, Usage } from '../../../core/responses.ts';
import { HOUR, SECOND } from '../../../core/time.ts';
import { chooser } from '../prng.ts';
import { violationOf } from './money.ts';
import type { Processes } from './processes.ts';
import { isEnded, type Owner, type Plan, type TaskRecord, type Trial } from './trial.ts';

/** Callers at the same time. */
const CONCURRENCY = 10;
/** Share of the tasks that are cancelled. */
const CANCELS = 0.15;
const PICTURE = new Uint8Array(await readFile(new URL('../../../assets/coffee.png', import.meta.url)));

const FORM = 'application/x-www-form-urlencoded';
const HOSTILE_FORMS: [name: string, type: string, body: string][] = [
  ['a very long number', FORM, `prompt=x&T=${'1'.repeat(50_000)}x`],
  ['many names', FORM, Array.from({ length: 20_000 }, (_, i) => `f${i}`).join('&')],
  ['many hyphens', FORM, `prompt=${'-'.repeat(100_000)}`],
  ['NUL in a webhook', 'application/json', '{"prompt":"x","webhook_url":"https://example.com/\\u0000"}'],
  ['many unknown names', 'application/json', `{${Array.from({ length: 50_000 }, (_, i) => `"f${i}":1`).join(',')}}`],
  [
    'many parts',
    'multipart/form-data; boundary=b',
    '--b\r\ncontent-disposition: form-data; name=a\r\n\r\nx\r\n'.repeat(5000),
  ],
  [
    'no end',
    'multipart/form-data; boundary=b',
    '--b\r\ncontent-disposition: form-data; name=image; filename=a\r\n\r\nx',
  ],
];

/** Runs `total` callers, ten at a time. @param isDue whether it is time for the n-th */
export async function runCallers(
  trial: Trial,
  processes: Processes,
  webhookUrl: string,
  total: number,
  isDue: (n: number) => boolean,
): Promise<void> {
  let next = 0;
  const runSome = async () => {
    for (let n = next++; n < total; n = next++) {
      await trial.harness.waitFor(() => isDue(n), 'time for a post', HOUR);
      await new Caller(trial, processes, n, webhookUrl).run();
    }
  };
  await Promise.all(Array.from({ length: Math.min(total, CONCURRENCY) }, runSome));
}

/** Whether the task's caller waits for nothing more. */
export const isServed = ({ plan, end, webhooks }: TaskRecord) =>
  end !== undefined && (!plan?.hasWebhook || webhooks.accepted > 0);

class Caller {
  readonly #random: () => number;
  readonly #plan: Plan;
  #progress = 0;

  constructor(
    private readonly trial: Trial,
    private readonly processes: Processes,
    private readonly n: number,
    private readonly webhookUrl: string,
  ) {
    const random = trial.stream(`caller ${n}`);
    this.#random = random;
    const choose = chooser(random);
    const hasWebhook = random() < 0.5;
    this.#plan = {
      owner: trial.owners[n % trial.owners.length]!,
      kind: choose(['prompt', 'banned', 'picture', 'picture', 'picture', 'picture'] as const),
      columns: random() < 0.3 ? 2 : 1,
      hasWebhook,
      follows: choose(['by polling', 'by events', hasWebhook ? 'by its webhook' : 'by events'] as const),
      cancels: random() < CANCELS ? choose(['at once', 'while it runs'] as const) : undefined,
    };
  }

  /** From the post to the task's end. */
  async run(): Promise<void> {
    const { follows, cancels } = this.#plan;
    const record = this.trial.recordOf(await this.#post());
    record.plan = this.#plan;
    if (cancels === 'at once') await this.#cancel(record);
    if (this.n % 4 === 0) await this.#tryOthersKey(record);
    if (this.n % 5 === 0) await this.#sendHostileForm();
    await this.#checkUsage();
    if (follows === 'by polling') await this.#poll(record);
    if (follows === 'by events') await this.#watch(record);
    await this.trial.harness.waitFor(() => isServed(record), `the end of ${record.id}`, HOUR);
    await this.#checkUsage();
  }

  /** Any API that is up. */
  #anApi() {
    const choose = () => {
      const up = this.processes.apisUp();
      return up.length > 0 && chooser(this.#random)(up);
    };
    return this.trial.harness.waitFor(choose, 'an API process', 120 * SECOND);
  }

  /** The answer of this API, or of any; undefined where the connection broke. */
  async #ask<Body = PresentedTask>(path: string, init: RequestInit = {}, { headers } = this.#plan.owner, url?: string) {
    url ??= (await this.#anApi()).url;
    const askedAt = performance.now();
    try {
      const response = await fetch(url + path, { ...init, headers: { ...headers, ...init.headers } });
      return { status: response.status, body: (await response.json()) as Body, askedAt };
    } catch {
      return undefined; // it died
    }
  }

  /**
   * Repeats a post that broke off, with the same idempotency key, and one that was refused, perhaps with another API key.
   * @returns the task's id, once the post is accepted
   */
  async #post(): Promise<string> {
    const { trial, n } = this;
    const { kind, columns, hasWebhook, cancels } = this.#plan;
    const isLong = cancels === 'while it runs';
    const size = isLong ? { T: '100', H: '512', W: '512' } : { T: '2', H: '64', W: '64' }; // long enough to run
    const prompt = { prompt: `number ${n}`, banned: 'something BANNED_PROMPT', picture: undefined }[kind];
    const fields = {
      ...size,
      steps: '1',
      seed: String(n),
      num_cols: String(columns),
      ...(prompt && { prompt }),
    };
    for (;;) {
      const { owner } = this.#plan;
      const api = await this.#anApi();
      const body = new FormData();
      for (const [name, value] of Object.entries(fields)) body.append(name, value);
      if (hasWebhook) body.append('webhook_url', `${this.webhookUrl}/${owner.name}`);
      if (kind === 'picture') body.append('image', new Blob([PICTURE]), 'image.png');
      const init = { method: 'POST', headers: { 'idempotency-key': `caller-${n}` }, body };
      const asking = this.#ask<PresentedTask & { detail?: string }>('/img2vid', init, owner, api.url);
      setTimeout(() => this.processes.killAt('posting', api), 40 * Math.random());
      const answer = await asking;
      if (answer?.status === 202) {
        trial.seeTask(answer.body, 'the post', answer.askedAt);
        return answer.body.id;
      }
      if (answer?.status === 402 && owner.budget !== null) await this.#waitForMoney(owner, answer.body.detail!);
      else if (answer?.status === 503)
        trial.brokenPosts++; // a lost answer of the database
      else if (answer) throw new Error(`a post was answered ${answer.status}: ${JSON.stringify(answer.body)}`);
      else trial.brokenPosts++;
    }
  }

  /** Waits until an active task of the same key has ended, if there is one; else the first owner pays. */
  async #waitForMoney(owner: Owner, detail: string): Promise<void> {
    const { trial } = this;
    owner.refused++;
    const [cost, left] = [...detail.matchAll(/([\d.]+) USD/g)].map(([, units]) => Number(units));
    if (!(cost! > left!)) trial.addViolation(`${owner.name} was refused: ${detail}`);
    const active = () => trial.accepted(owner).filter(({ end }) => !end).length;
    const before = active();
    if (before === 0) this.#plan.owner = trial.owners[0]!;
    else await trial.harness.waitFor(() => active() < before, `an end of a task of ${owner.name}`, HOUR);
  }

  async #checkUsage(): Promise<void> {
    const answer = await this.#ask<Usage>('/usage');
    if (!answer) return;
    const violation = answer.status === 200 ? violationOf(answer.body, this.#plan.owner) : `/usage: ${answer.status}`;
    if (violation) this.trial.addViolation(violation);
  }

  /** With another owner's key the task does not exist. */
  async #tryOthersKey({ id }: TaskRecord): Promise<void> {
    const { owner } = this.#plan;
    const other = chooser(this.#random)(this.trial.owners.filter((one) => one !== owner));
    const answers = [
      await this.#ask(`/status?id=${id}`, {}, other),
      await this.#ask(`/cancel?id=${id}`, { method: 'POST' }, other),
    ];
    for (const answer of answers)
      if (answer && answer.status !== 404)
        this.trial.addViolation(`${id} of ${owner.name}: ${other.name} got ${answer.status}`);
  }

  /** A form that no client means well with is refused, and costs nothing. */
  async #sendHostileForm(): Promise<void> {
    const [name, type, body] = chooser(this.#random)(HOSTILE_FORMS);
    const answer = await this.#ask('/img2vid', { method: 'POST', headers: { 'content-type': type }, body });
    if (answer && answer.status !== 503 && !(answer.status >= 400 && answer.status < 500))
      this.trial.addViolation(`${name} got ${answer.status}`);
  }

  async #cancel(record: TaskRecord): Promise<void> {
    record.isCancelled = true;
    for (;;) {
      const answer = await this.#ask(`/cancel?id=${record.id}`, { method: 'POST' });
      if (answer?.status === 202) return this.trial.seeTask(answer.body, 'the cancel', answer.askedAt);
      if (answer?.status === 409) return; // it has ended otherwise
      if (answer && answer.status !== 503) throw new Error(`a cancel was answered ${answer.status}`);
    }
  }

  /** Notes a state that the caller got; to be called with all of them in order. */
  async #follow(record: TaskRecord, task: PresentedTask, askedAt: number): Promise<void> {
    const { trial } = this;
    trial.seeTask(task, `a caller ${this.#plan.follows}`, askedAt);
    if (task.progress < this.#progress)
      trial.addViolation(`${task.id}: progress fell from ${this.#progress} to ${task.progress}`);
    this.#progress = task.progress;
    if (this.#plan.cancels === 'while it runs' && task.status === 'running' && !record.isCancelled)
      await this.#cancel(record);
  }

  async #poll(record: TaskRecord): Promise<void> {
    while (!record.end) {
      await delay(50 + 100 * this.#random()); // as callers do
      if (this.#random() < 0.1) await this.#checkUsage();
      const answer = await this.#ask(`/status?id=${record.id}`);
      if (answer?.status === 200) await this.#follow(record, answer.body, answer.askedAt);
      else if (answer) this.trial.addViolation(`${record.id}: its status was answered ${answer.status}`);
    }
  }

  /** Follows events as our client does; when an API dies, another one, or the next, goes on where it stopped. */
  async #watch(record: TaskRecord): Promise<void> {
    let askedAt = 0;
    const connect = async (headers: Record<string, string>) => {
      const { url } = await this.#anApi();
      askedAt = performance.now();
      return fetch(`${url}/status?id=${record.id}`, { headers: { ...this.#plan.owner.headers, ...headers } });
    };
    for await (const data of followEvents(connect, { onBreak: () => {}, signal: this.trial.over.signal })) {
      const task: PresentedTask = JSON.parse(data);
      await this.#follow(record, task, askedAt);
      if (isEnded(task)) return;
    }
  }
}
