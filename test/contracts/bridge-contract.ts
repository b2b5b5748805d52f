/** The tests that every bridge must pass: each bridge's own test file calls `bridgeContract`. */
import sharp from 'sharp';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Bucket, getJson } from '../../core/bucket/bucket.ts';
import { type ErrorCode, JobError } from '../../core/job.ts';
import type { BridgeName } from '../../handler/still/bridges/bridge.ts';
import { type ImagineOptions, imagine, pictureKey } from '../../handler/still/bridges/imagine.ts';
import {
  type Call,
  COLOURS,
  colourOf,
  type Intervene,
  imagineOptions,
  memoryBucket,
  type Started,
  startBridge,
  TASK,
} from '../support/test-bridge.ts';

/** What a provider documents, or is known to do. */
interface Documented {
  /** words in a prompt for which the simulator refuses it, each with our error code */
  refusals: Record<string, ErrorCode>;
  /** words for which it accepts the prompt and then fails */
  failures: Record<string, ErrorCode>;
  /** statuses of a POST with the provider's body, our error code and message */
  statuses: [status: number, body: object, code: ErrorCode, message: RegExp][];
  /** what its status requests answer; absent if the answer to an imagine has the pictures */
  polling?: {
    /** the progress that is reported at 40 % and 80 % */
    progress: number[];
    /** answers that are not documented */
    unknown: unknown[];
    /** a finished status without any picture */
    empty: object;
  };
  /** removes the four pictures from a finished status, but not the grid; absent if the provider has the grid only */
  onlyGrid?: (answer: never) => object;
  keepsRef: boolean;
  finds: boolean;
  cancels: boolean;
}

const RECORD = `tasks/${TASK}/imagine.json`;
const PROMPT = 'a lighthouse';

type Answer = (c: Parameters<Intervene>[2]) => Response | Promise<Response>;

/** Answers the first calls of one sort instead of the simulator, or all of them. */
const answerCalls =
  (call: Call, answer: Answer, most = Number.POSITIVE_INFINITY): Intervene =>
  (actual, count, c) =>
    actual === call && count <= most ? answer(c) : undefined;

/** The bucket and the bridges of one test. */
class Harness {
  bucket: Bucket = memoryBucket();
  private readonly started: Started[] = [];

  constructor(readonly name: BridgeName) {}

  async start(options?: Parameters<typeof startBridge>[1]) {
    const bridge = await startBridge(this.name, options);
    this.started.push(bridge);
    return { ...bridge, options: imagineOptions(this.bucket, [bridge.bridge]) };
  }

  async reset() {
    this.bucket = memoryBucket();
    for (const { close } of this.started.splice(0)) await close();
  }

  record = () => getJson(this.bucket, RECORD);
  writeRecord = (record: object) =>
    this.bucket.put(RECORD, JSON.stringify({ bridge: this.name, ref: TASK, ...record }));
  pictures = () => Promise.all([1, 2, 3, 4].map((index) => this.bucket.get(pictureKey(TASK, index))));

  async expectFour() {
    expect(await Promise.all((await this.pictures()).map((png) => colourOf(png!)))).toEqual(COLOURS);
  }

  async expectFailure(options: ImagineOptions, code: string, message = /./, prompt = PROMPT) {
    const error = await imagine(prompt, options).then(
      () => undefined,
      (error) => error,
    );
    expect(error).toBeInstanceOf(JobError);
    expect(error).toMatchObject({ code, message: expect.stringMatching(message) });
    expect((await this.pictures()).some(Boolean)).toBe(false);
    return error as JobError;
  }
}

export function bridgeContract(name: BridgeName, documented: Documented) {
  const { polling } = documented;
  describe(`${name}: what every bridge does`, () => {
    const harness = new Harness(name);
    beforeEach(() => harness.reset());
    afterEach(() => harness.reset());
    testPictures(harness, documented);
    testRefusals(harness, documented);
    testLostAnswers(harness, documented);
    testRecords(harness);
    if (polling) testStatusRequests(harness, polling);
    else testSavedAnswers(harness);
    if (polling) testEnds(harness, documented);
    testDownloads(harness, documented);
    testHosts(harness);
  });
}

function testPictures(harness: Harness, documented: Documented) {
  test('saves four pictures in order, and records who was paid', async () => {
    const { options, imagines } = await harness.start();
    await imagine(PROMPT, options);
    await harness.expectFour();
    const [asked] = imagines.values();
    const [prompt, id] = documented.polling ? [`${PROMPT} --ar 2:1`, asked!.id] : [PROMPT, TASK];
    expect(asked).toMatchObject({ prompt, ref: documented.keepsRef ? TASK : undefined });
    expect(await harness.record()).toMatchObject({ bridge: harness.name, ref: TASK, id, refused: [] });
  });

  test('sends no request for a task that has its pictures', async () => {
    const { options, paths } = await harness.start();
    await imagine(PROMPT, options);
    const before = paths.length;
    await imagine(PROMPT, options);
    expect(paths).toHaveLength(before);
  });

  test('two workers at once pay once, and both get the pictures', async () => {
    const { options, imagines } = await harness.start();
    await Promise.all([imagine(PROMPT, options), imagine(PROMPT, options)]);
    expect(imagines.size).toBe(1);
    await harness.expectFour();
  });

  if (!documented.polling) return;
  test('the quadrants of the grid are used where there are no single pictures', async () => {
    const { options } = await harness.start({
      async intervene(call, _, c, answer) {
        if (call !== 'status') return undefined;
        const own = await (await answer()).json();
        return c.json(documented.onlyGrid ? documented.onlyGrid(own as never) : own);
      },
    });
    await imagine(PROMPT, options);
    await harness.expectFour();
    for (const png of await harness.pictures()) {
      expect(await sharp(png).metadata()).toMatchObject({ width: 64, height: 32 });
    }
  });

  if (!documented.onlyGrid) return; // this bridge gives the grid alone
  test('the quadrants are used where single pictures can’t be downloaded', async () => {
    const { options, calls } = await harness.start({
      intervene: (call, _, c) => (call === 'picture' && !c.req.path.includes('grid') ? c.text('no', 403) : undefined),
    });
    await imagine(PROMPT, options);
    await harness.expectFour();
    expect(calls.status).toBe(1);
  });
}

function testRefusals(harness: Harness, documented: Documented) {
  test.each(Object.entries(documented.refusals))(
    'a refusal for %s is %s, and final for the bridge',
    async (word, code) => {
      const { options, imagines, calls } = await harness.start();
      const error = await harness.expectFailure(options, code, /./, `${PROMPT} ${word}`);
      expect(error.cause).toBeInstanceOf(Error);
      expect(imagines.size).toBe(0);
      expect(await harness.record()).toMatchObject({ refused: [{ bridge: harness.name, code }] });
      const before = calls.imagine;
      await harness.expectFailure(options, code, /./, `${PROMPT} ${word}`);
      expect(calls.imagine).toBe(before);
    },
  );

  test.each(Object.entries(documented.failures))(
    'the failure %s of an accepted prompt is %s, and final',
    async (word, code) => {
      const { options, imagines, paid } = await harness.start();
      const error = await harness.expectFailure(options, code, /./, `${PROMPT} ${word}`);
      expect(error.cause).toBeInstanceOf(Error);
      await harness.expectFailure(options, code, /./, `${PROMPT} ${word}`);
      expect(imagines.size).toBe(1);
      expect(paid()).toBe(0);
    },
  );

  test.each(documented.statuses)(
    'a POST answered with %i %j is %s, and counts as unpaid',
    async (status, body, code, message) => {
      const { options, calls } = await harness.start({
        intervene: answerCalls('imagine', (c) => c.json(body, status as 400)),
      });
      const error = await harness.expectFailure(options, code, message);
      expect(error.cause).toMatchObject({ status });
      expect(await harness.record()).toEqual({
        ...{ ref: TASK, asked_at: 0 },
        refused: [{ bridge: harness.name, code, message: error.message }],
      });
      expect(calls.imagine).toBe(code === 'rate_limited' ? 3 : 1);
    },
  );

  test('a wrong key is no_credit', async () => {
    const { options, imagines } = await harness.start({ apiKey: 'a wrong key' });
    await harness.expectFailure(options, 'no_credit');
    expect(imagines.size).toBe(0);
  });

  test('a rate limit is waited out if the pause is short, and else rate_limited', async () => {
    const slowDown = (retryAfter: string) =>
      answerCalls('imagine', (c) => c.json({}, 429, { 'retry-after': retryAfter }), 1);
    const { options, imagines } = await harness.start({ intervene: slowDown('0') });
    await imagine(PROMPT, options);
    expect(imagines.size).toBe(1);
    await harness.bucket.delete(`tasks/${TASK}`);
    const slow = await harness.start({ intervene: slowDown('3600') });
    await harness.expectFailure(slow.options, 'rate_limited');
    expect(slow.calls.imagine).toBe(1);
  });
}

/** After these answers the prompt may have been accepted, so a second POST could be a second payment. */
const AMBIGUOUS: [what: string, answer: Answer][] = [
  ['status 500', (c) => c.json({}, 500)],
  ['status 503', (c) => c.text('<html>try later</html>', 503)],
  ['no id', (c) => c.json({ success: true, code: 1, status: 'pending' })],
  ['no JSON', (c) => c.text('<html>welcome</html>')],
  ['no body', (c) => c.body(null, 204)],
  ['other types', (c) => c.json({ success: 'yes', messageId: 5, job_id: {}, code: 'one', result: [] })],
];

function testLostAnswers(harness: Harness, documented: Documented) {
  const foundOrLost = documented.finds ? 'is found by our reference' : 'is lost';

  test.each(AMBIGUOUS)('a POST answered with %s is lost, and never sent again', async (_what, answer) => {
    const { options, calls } = await harness.start({ intervene: answerCalls('imagine', answer) });
    const error = await harness.expectFailure(options, 'lost');
    expect(error.cause).toBeInstanceOf(Error);
    expect(await harness.record()).toMatchObject({ bridge: harness.name, ref: TASK, refused: [] });
    await harness.expectFailure({ ...options, now: () => Date.now() + 600_000 }, 'lost');
    expect(calls.imagine).toBe(1);
  });

  test(`an accepted prompt whose answer is lost ${foundOrLost}, and paid once`, async () => {
    const { options, paid, calls } = await harness.start({
      async intervene(call, _, c, answer) {
        if (call !== 'imagine') return undefined;
        await answer();
        return c.text('gateway timeout', 504);
      },
    });
    if (documented.finds) await imagine(PROMPT, options);
    else await harness.expectFailure(options, 'lost');
    expect(paid()).toBe(1);
    expect(calls.imagine).toBe(1);
  });

  test(`the prompt of a worker that died before it had the id ${foundOrLost}`, async () => {
    const { options, bridge, calls } = await harness.start();
    await bridge.imagine('somebody else’s', 'another task');
    await bridge.imagine(`${PROMPT} --ar 2:1`, TASK);
    await harness.writeRecord({});
    if (documented.finds) {
      await imagine(PROMPT, options);
      await harness.expectFour();
    } else {
      await harness.expectFailure(options, 'lost', /broke off/);
    }
    expect(calls.imagine).toBe(2); // the two above
  });
}

function testRecords(harness: Harness) {
  test('an intent without an imagine is lost, and nobody is asked', async () => {
    const { options, calls } = await harness.start();
    await harness.writeRecord({});
    await harness.expectFailure(options, 'lost');
    expect(calls.imagine + calls.status).toBe(0);
  });

  test('an intent at a bridge that is no longer configured is lost, and nobody is asked', async () => {
    const { options, paths } = await harness.start();
    await harness.writeRecord({ bridge: 'another', id: '1' });
    await harness.expectFailure(options, 'lost', /no longer configured/);
    expect(paths).toEqual([]);
  });

  test('an id that the bridge does not know is lost', async () => {
    const { options } = await harness.start();
    await harness.writeRecord({ id: 'unknown' });
    await harness.expectFailure(options, 'lost', /no longer knows/);
  });
}

const TEMPORARY: [what: string, answer: Answer][] = [
  ['status 500', (c) => c.json({}, 500)],
  ['status 429', (c) => c.json({}, 429)],
  ['an answer that can’t be read', (c) => c.html('<h1>Just a moment</h1>')],
  ['status 503 and Retry-After', (c) => c.json({}, 503, { 'retry-after': '0' })],
  [
    'a lost connection',
    (c) => {
      c.env.incoming.socket.destroy();
      return c.body(null);
    },
  ],
];

function testStatusRequests(harness: Harness, polling: NonNullable<Documented['polling']>) {
  test('an imagine whose id is recorded is awaited, not requested again', async () => {
    const { options, bridge, calls } = await harness.start();
    await harness.writeRecord({ id: await bridge.imagine(PROMPT, TASK) });
    await imagine(PROMPT, options);
    await harness.expectFour();
    expect(calls.imagine).toBe(1); // the one above
  });

  test('an imagine that never ends is upstream_timeout, and a second job waits for the same one', async () => {
    let clock = 0;
    const { options, imagines } = await harness.start({ duration: 1000, now: () => clock });
    const error = await harness.expectFailure({ ...options, stillTimeout: 200 }, 'upstream_timeout', /0.2 s/);
    expect(error.data.retryable).toBe(true);
    clock = 1000;
    await imagine(PROMPT, options);
    expect(imagines.size).toBe(1);
  });

  test.each(polling.unknown)('the status %j is upstream_error, and its id is kept', async (answer) => {
    const { options } = await harness.start({ intervene: answerCalls('status', (c) => c.json(answer as object)) });
    const error = await harness.expectFailure(options, 'upstream_error');
    expect(String(error.cause)).toMatch(/^Error: an unexpected answer: /);
    if (typeof answer === 'object' && answer)
      for (const name of Object.keys(answer)) expect(String(error.cause)).toContain(name);
    expect(await harness.record()).toHaveProperty('id');
  });

  test('a finished status without pictures is upstream_error, and its id is kept', async () => {
    const { options } = await harness.start({ intervene: answerCalls('status', (c) => c.json(polling.empty)) });
    await harness.expectFailure(options, 'upstream_error');
    expect(await harness.record()).toHaveProperty('id');
  });

  test('reports progress until the imagine is done', async () => {
    let clock = 0;
    const { options } = await harness.start({
      duration: 100,
      now: () => clock,
      intervene(call) {
        if (call === 'status') clock += 40;
        return undefined;
      },
    });
    const reported: number[] = [];
    await imagine(PROMPT, { ...options, onProgress: (part) => reported.push(part) });
    expect(reported).toEqual(polling.progress);
  });

  test.each(TEMPORARY)('a status request is repeated after %s', async (_what, answer) => {
    const { options, calls } = await harness.start({ intervene: answerCalls('status', answer, 1) });
    await imagine(PROMPT, options);
    expect(calls).toMatchObject({ imagine: 1, status: 2 });
    await harness.expectFour();
  });

  test('a status request is not repeated before Retry-After', async () => {
    const { options, calls } = await harness.start({
      intervene: answerCalls('status', (c) => c.json({}, 429, { 'retry-after': '3600' })),
    });
    await harness.expectFailure({ ...options, stillTimeout: 300 }, 'upstream_timeout');
    expect(calls.status).toBe(1);
  });

  test('a refused status request is no_credit, and the id is kept', async () => {
    const { options } = await harness.start({ intervene: answerCalls('status', (c) => c.json({}, 401)) });
    await harness.expectFailure(options, 'no_credit');
    expect(await harness.record()).toHaveProperty('id');
  });
}

/** Of bridges that answer with the pictures. */
function testSavedAnswers(harness: Harness) {
  const answer = `tasks/${TASK}/imagine-answer.json`;

  test('a saved answer is used, not requested again, and deleted once its pictures are saved', async () => {
    const { options, bridge, calls } = await harness.start();
    const pictures = await bridge.imagine(`${PROMPT} --ar 2:1`, TASK);
    await harness.writeRecord({}); // the worker died between the two
    await harness.bucket.put(answer, JSON.stringify({ pictures }));
    await imagine(PROMPT, options);
    await harness.expectFour();
    expect(calls.imagine).toBe(1); // the one above
    expect(await harness.bucket.has(answer)).toBe(false);
  });

  test('a worker whose answer another one has used meanwhile takes its pictures', async () => {
    const { options, bridge, calls } = await harness.start();
    await harness.writeRecord({ id: TASK });
    const has: Bucket['has'] = async (key) => {
      const found = await harness.bucket.has(key);
      if (key === pictureKey(TASK, 1) && !found) await imagineElsewhere();
      return found;
    };
    const imagineElsewhere = async () => {
      const pictures = await bridge.imagine(`${PROMPT} --ar 2:1`, TASK);
      await harness.bucket.put(answer, JSON.stringify({ pictures }));
      await imagine(PROMPT, options);
    };
    await imagine(PROMPT, { ...options, bucket: { ...harness.bucket, has } });
    await harness.expectFour();
    expect(calls.imagine).toBe(1);
  });

  test('an answer that does not come in time is lost, and not requested again', async () => {
    const { options, calls } = await harness.start({
      answerTimeout: 50,
      intervene: (call) => (call === 'imagine' ? new Promise(() => {}) : undefined),
    });
    const error = await harness.expectFailure(options, 'lost');
    expect(error.cause).toMatchObject({ message: 'no answer within 0.05 s' });
    await harness.expectFailure({ ...options, now: () => Date.now() + 600_000 }, 'lost');
    expect(calls.imagine).toBe(1);
  });

  test('a worker waits as long for another one’s answer as that one does', async () => {
    const { options, bridge, calls } = await harness.start();
    const bridges = [{ ...bridge, answerTimeout: 600_000 }];
    const put: Bucket['create'] = async (key, body) => {
      await harness.bucket.create(key, body);
      throw new Error('the worker died');
    };
    const dying = { ...options, bridges, bucket: { ...harness.bucket, create: put } };
    await expect(imagine(PROMPT, dying)).rejects.toThrow('died');
    const later = (seconds: number) => ({ ...options, stillTimeout: 30, now: () => Date.now() + seconds * 1000 });
    await harness.expectFailure(later(600), 'upstream_timeout');
    await harness.expectFailure(later(720), 'lost');
    expect(calls.imagine).toBe(0);
  });
}

function testEnds(harness: Harness, documented: Documented) {
  test.each([
    ['RunPod stops the job', new DOMException('RunPod stopped the job', 'AbortError'), documented.cancels],
    ['the worker shuts down', new Error('the worker had to stop'), false],
  ])('when %s, imagine rejects and keeps the id', async (_what, reason, canceled) => {
    const controller = new AbortController();
    const { options, imagines } = await harness.start({ duration: Number.POSITIVE_INFINITY });
    const onProgress = () => controller.abort(reason);
    const work = imagine(PROMPT, { ...options, signal: controller.signal, onProgress });
    await expect(work).rejects.not.toBeInstanceOf(JobError);
    expect(await harness.record()).toHaveProperty('id');
    expect([...imagines.values()].map((imagine) => imagine.canceled)).toEqual([canceled]);
  });
}

function testDownloads(harness: Harness, documented: Documented) {
  test('pictures that can’t be downloaded at first are downloaded again, from new URLs if there may be some', async () => {
    const { options, calls, imagines } = await harness.start({
      intervene(call, _, c) {
        const isPicture = call === 'picture' || c.req.path.endsWith('/getImage'); // from the picture's host, or through the bridge
        const isEarly = documented.polling ? calls.status === 1 : calls.picture <= 4;
        return isPicture && isEarly ? c.text('not yet', 404) : undefined;
      },
    });
    await imagine(PROMPT, options);
    await harness.expectFour();
    if (documented.polling) expect(calls.status).toBe(2);
    expect(imagines.size).toBe(1);
  });

  test('a malformed picture is image_unavailable; a second job downloads it again without a payment', async () => {
    let broken = true;
    const { options, imagines } = await harness.start({
      intervene: (call, _, c) => (call === 'picture' && broken ? c.text('<html>') : undefined),
    });
    await harness.expectFailure(options, 'image_unavailable');
    broken = false;
    await imagine(PROMPT, options);
    await harness.expectFour();
    expect(imagines.size).toBe(1);
  });

  test('a redirect of the bridge’s picture is followed on its own host, and to no other private address', async () => {
    const own = await harness.start({ intervene: answerCalls('picture', (c) => c.redirect(c.req.path), 1) });
    await imagine(PROMPT, own.options);
    await harness.expectFour();
    await harness.reset();

    const inside = await harness.start();
    const target = `${inside.baseUrl}/pictures/1.png`;
    const { options } = await harness.start({ intervene: answerCalls('picture', (c) => c.redirect(target)) });
    const error = await harness.expectFailure(options, 'image_unavailable');
    expect(error.cause).toMatchObject({ message: expect.stringMatching('127.0.0.1 is not a public address') });
    expect(inside.paths).toEqual([]);
  });
}

function testHosts(harness: Harness) {
  test('a redirect is not followed: it would send the key and the prompt elsewhere', async () => {
    const elsewhere = await harness.start();
    for (const status of [302, 307, 308] as const) {
      await harness.bucket.delete(`tasks/${TASK}`);
      const { options } = await harness.start({
        intervene: answerCalls('imagine', (c) =>
          c.redirect(new URL(c.req.path, elsewhere.baseUrl).href, status as 302),
        ),
      });
      await harness.expectFailure(options, 'upstream_error');
    }
    expect(elsewhere.paths).toEqual([]);
  });

  test('pictures may be fetched from a private address only on the bridge’s own host', async () => {
    const { bridge, baseUrl } = await harness.start();
    expect(bridge.trusts(new URL('/picture.png', baseUrl))).toBe(true);
    expect(bridge.trusts(new URL('http://127.0.0.1:1/picture.png'))).toBe(false);
  });
}
