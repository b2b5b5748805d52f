/** What every bridge must do, as tests: each bridge's own test file calls this. */
import sharp from 'sharp';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Bucket, getJson } from '../../core/bucket/bucket.ts';
import { type ErrorCode, JobError } from '../../core/job.ts';
import type { BridgeName } from '../../handler/still/midjourney/bridge.ts';
import { type ImagineOptions, imagine, pictureKey } from '../../handler/still/midjourney/imagine.ts';
import {
  COLOURS,
  colourOf,
  type Intervene,
  imagineOptions,
  memoryBucket,
  type Started,
  startBridge,
  TASK,
} from '../support/test-bridge.ts';

export interface Documented {
  /** words in a prompt for which the stand-in refuses it, and what that is to us */
  refusals: Record<string, ErrorCode>;
  /** words for which it fails what it has taken */
  failures: Record<string, ErrorCode>;
  /** statuses of a POST, with what the bridge may say with them */
  statuses: [status: number, body: object, code: ErrorCode, said: RegExp][];
  /** what is reported at 40 % and 80 % */
  progress: number[];
  /** answers to a look that are none of the documented */
  unknown: unknown[];
  /** a look that is done, without any picture */
  empty: object;
  /** a look's answer without pictures of each, but with the grid; absent where that is the rule */
  onlyGrid?: (answer: never) => object;
  keepsRef: boolean;
  finds: boolean;
  cancels: boolean;
}

export function contract(name: BridgeName, documented: Documented) {
  const INTENT = `tasks/${TASK}/imagine.json`;
  const LATER = () => Date.now() + 600_000;
  let bucket: Bucket;
  const started: Started[] = [];

  beforeEach(() => {
    bucket = memoryBucket();
  });
  afterEach(async () => {
    for (const { close } of started.splice(0)) await close();
  });

  async function start(options?: Parameters<typeof startBridge>[1]) {
    const bridge = await startBridge(name, options);
    started.push(bridge);
    return { ...bridge, options: imagineOptions(bucket, [bridge.bridge]) };
  }
  const only =
    (wanted: string, answer: Intervene): Intervene =>
    (call, ...rest) =>
      call === wanted ? answer(call, ...rest) : undefined;
  const saved = () => Promise.all([1, 2, 3, 4].map((index) => bucket.get(pictureKey(TASK, index))));
  const record = () => getJson(bucket, INTENT);

  async function expectFour() {
    expect(await Promise.all((await saved()).map((png) => colourOf(png!)))).toEqual(COLOURS);
  }

  async function expectFailure(prompt: string, options: ImagineOptions, code: string, message = /./) {
    const error = await imagine(prompt, options).then(
      () => undefined,
      (error) => error,
    );
    expect(error).toBeInstanceOf(JobError);
    expect(error).toMatchObject({ code, message: expect.stringMatching(message) });
    expect((await saved()).some(Boolean)).toBe(false);
    return error as JobError;
  }

  describe(`${name}: what every bridge does`, () => {
    test('four pictures come into the task’s folder, in order; the record names who was paid', async () => {
      const { options, imagines } = await start();
      await imagine('a lighthouse', options);
      await expectFour();
      const [asked] = imagines.values();
      expect(asked).toMatchObject({ prompt: 'a lighthouse --ar 2:1', ref: documented.keepsRef ? TASK : undefined });
      expect(await record()).toMatchObject({ bridge: name, ref: TASK, id: asked!.id, refused: [] });
    });

    test('asked again, it neither pays nor looks', async () => {
      const { options, paths } = await start();
      await imagine('a lighthouse', options);
      const before = paths.length;
      await imagine('a lighthouse', options);
      expect(paths).toHaveLength(before);
    });

    test('two workers at once pay once, and both get the pictures', async () => {
      const { options, imagines } = await start();
      await Promise.all([imagine('a lighthouse', options), imagine('a lighthouse', options)]);
      expect(imagines.size).toBe(1);
      await expectFour();
    });

    test('progress is reported until it is done', async () => {
      let clock = 0;
      const { options } = await start({
        duration: 100,
        now: () => clock,
        intervene: only('status', () => {
          clock += 40;
          return undefined;
        }),
      });
      const said: number[] = [];
      await imagine('a lighthouse', { ...options, onProgress: (part) => said.push(part) });
      expect(said).toEqual(documented.progress);
    });

    for (const [word, code] of Object.entries(documented.refusals)) {
      test(`${word} when it is asked: ${code}; nothing is taken, and a second job does not ask again`, async () => {
        const { options, imagines, calls } = await start();
        const error = await expectFailure(`a lighthouse ${word}`, options, code);
        expect(error.cause).toBeInstanceOf(Error);
        expect(imagines.size).toBe(0);
        expect(await record()).toMatchObject({ refused: [{ bridge: name, code }] });
        const before = calls.imagine;
        await expectFailure(`a lighthouse ${word}`, options, code);
        expect(calls.imagine).toBe(before);
      });
    }

    for (const [word, code] of Object.entries(documented.failures)) {
      test(`${word} after it was taken: ${code}; asked once, also by a second job`, async () => {
        const { options, imagines, paid } = await start();
        const error = await expectFailure(`a lighthouse ${word}`, options, code);
        expect(error.cause).toBeInstanceOf(Error);
        await expectFailure(`a lighthouse ${word}`, options, code);
        expect(imagines.size).toBe(1);
        expect(paid()).toBe(0);
      });
    }

    for (const [status, body, code, said] of documented.statuses) {
      test(`POST answered with ${status} ${JSON.stringify(body)}: ${code}, and nothing is thought paid`, async () => {
        const { options, calls } = await start({
          intervene: only('imagine', (_, __, c) => c.json(body, status as 400)),
        });
        const error = await expectFailure('a lighthouse', options, code, said);
        expect(error.cause).toMatchObject({ status });
        expect(await record()).toEqual({
          ...{ ref: TASK, asked_at: 0 },
          refused: [{ bridge: name, code, message: error.message }],
        });
        expect(calls.imagine).toBe(status === 429 ? 3 : 1);
      });
    }

    test('a wrong key: no_credit', async () => {
      const { options, imagines } = await start({ apiKey: 'a wrong key' });
      await expectFailure('a lighthouse', options, 'no_credit');
      expect(imagines.size).toBe(0);
    });

    test('it asks to slow down, once: asked again after the pause that it wants', async () => {
      const slowDown = (retryAfter: string) =>
        only('imagine', (_, count, c) => {
          return count === 1 ? c.json({}, 429, { 'retry-after': retryAfter }) : undefined;
        });
      const { options, imagines } = await start({ intervene: slowDown('0') });
      await imagine('a lighthouse', options);
      expect(imagines.size).toBe(1);
      await bucket.delete(`tasks/${TASK}`);
      const patient = await start({ intervene: slowDown('3600') }); // more than anybody would wait
      await expectFailure('a lighthouse', patient.options, 'rate_limited');
      expect(patient.calls.imagine).toBe(1);
    });

    /** After these nobody knows whether the prompt was taken: a second POST could be a second payment. */
    const silences: Record<string, (c: Parameters<Intervene>[2]) => Response> = {
      'status 500': (c) => c.json({}, 500),
      'status 503': (c) => c.text('<html>try later</html>', 503),
      'an answer without an id': (c) => c.json({ success: true, code: 1, status: 'pending' }),
      'an answer that is no JSON': (c) => c.text('<html>welcome</html>'),
      'an answer that is empty': (c) => c.body(null, 204),
      'an answer with other types': (c) =>
        c.json({ success: 'yes', messageId: 5, job_id: {}, code: 'one', result: [] }),
    };
    for (const [what, answer] of Object.entries(silences)) {
      test(`POST answered with ${what}: lost, and never asked again`, async () => {
        const { options, calls } = await start({ intervene: only('imagine', (_, __, c) => answer(c)) });
        const error = await expectFailure('a lighthouse', options, 'lost');
        expect(error.cause).toBeInstanceOf(Error);
        expect(await record()).toMatchObject({ bridge: name, ref: TASK, refused: [] });
        await expectFailure('a lighthouse', { ...options, now: LATER }, 'lost');
        expect(calls.imagine).toBe(1);
      });
    }

    test(`it takes the prompt, and its answer is lost: ${documented.finds ? 'found by our mark' : 'lost'}, paid once`, async () => {
      const { options, paid, calls } = await start({
        intervene: only('imagine', async (_, __, c, answer) => {
          await answer();
          return c.text('gateway timeout', 504);
        }),
      });
      if (documented.finds) await imagine('a lighthouse', options);
      else await expectFailure('a lighthouse', options, 'lost');
      expect(paid()).toBe(1);
      expect(calls.imagine).toBe(1);
    });

    test(`an earlier worker died before it had the id: ${documented.finds ? 'found by our mark' : 'lost'}`, async () => {
      const { options, bridge, calls } = await start();
      await bridge.imagine('somebody else’s', 'another task');
      await bridge.imagine('a lighthouse --ar 2:1', TASK);
      await bucket.put(INTENT, JSON.stringify({ bridge: name, ref: TASK }));
      if (documented.finds) {
        await imagine('a lighthouse', options);
        await expectFour();
      } else {
        await expectFailure('a lighthouse', options, 'lost', /broke off/);
      }
      expect(calls.imagine).toBe(2); // our own two
    });

    test('an intent that came to nothing: lost, nobody is asked', async () => {
      const { options, calls } = await start();
      await bucket.put(INTENT, JSON.stringify({ bridge: name, ref: TASK }));
      await expectFailure('a lighthouse', options, 'lost');
      expect(calls.imagine + calls.status).toBe(0);
    });

    test('an intent at a bridge that is no longer configured: lost, nobody is asked', async () => {
      const { options, paths } = await start();
      await bucket.put(INTENT, JSON.stringify({ bridge: 'another', ref: TASK, id: '1' }));
      await expectFailure('a lighthouse', options, 'lost', /no longer configured/);
      expect(paths).toEqual([]);
    });

    test('an intent with an id is waited for, not asked again', async () => {
      const { options, bridge, calls } = await start();
      const id = await bridge.imagine('a lighthouse', TASK);
      await bucket.put(INTENT, JSON.stringify({ bridge: name, ref: TASK, id }));
      await imagine('a lighthouse', options);
      await expectFour();
      expect(calls.imagine).toBe(1); // our own, above
    });

    test('an id that the bridge has forgotten: lost', async () => {
      const { options } = await start();
      await bucket.put(INTENT, JSON.stringify({ bridge: name, ref: TASK, id: 'unknown' }));
      await expectFailure('a lighthouse', options, 'lost', /forgotten/);
    });

    const hiccups: Record<string, (c: Parameters<Intervene>[2]) => Response> = {
      'status 500': (c) => c.json({}, 500),
      'status 429': (c) => c.json({}, 429),
      'status 503 and Retry-After': (c) => c.json({}, 503, { 'retry-after': '0' }),
      'a cut line': (c) => {
        c.env.incoming.socket.destroy();
        return c.body(null);
      },
    };
    for (const [what, answer] of Object.entries(hiccups)) {
      test(`a look that meets ${what} is repeated`, async () => {
        const { options, calls } = await start({
          intervene: only('status', (_, count, c) => (count === 1 ? answer(c) : undefined)),
        });
        await imagine('a lighthouse', options);
        expect(calls).toMatchObject({ imagine: 1, status: 2 });
        await expectFour();
      });
    }

    test('a look that is told to wait is not repeated before', async () => {
      const { options, calls } = await start({
        intervene: only('status', (_, __, c) => c.json({}, 429, { 'retry-after': '3600' })),
      });
      await expectFailure('a lighthouse', { ...options, timeout: 300 }, 'upstream_timeout');
      expect(calls.status).toBe(1);
    });

    test('a look that is refused: no_credit, and the id is kept', async () => {
      const { options } = await start({ intervene: only('status', (_, __, c) => c.json({}, 401)) });
      await expectFailure('a lighthouse', options, 'no_credit');
      expect(await record()).toHaveProperty('id');
    });

    for (const answer of documented.unknown) {
      test(`a look answered with ${JSON.stringify(answer)}: upstream_error, and the log is told`, async () => {
        const { options } = await start({
          intervene: only('status', (_, __, c) => c.json(answer as object)),
        });
        const error = await expectFailure('a lighthouse', options, 'upstream_error');
        expect(String(error.cause)).toContain(JSON.stringify(answer));
        expect(await record()).toHaveProperty('id'); // it may have been paid
      });
    }

    test('done, without pictures: upstream_error, and the id is kept', async () => {
      const { options } = await start({ intervene: only('status', (_, __, c) => c.json(documented.empty)) });
      await expectFailure('a lighthouse', options, 'upstream_error');
      expect(await record()).toHaveProperty('id');
    });

    test('never done: upstream_timeout; a second job waits for the same imagine', async () => {
      let clock = 0;
      const { options, imagines } = await start({ duration: 1000, now: () => clock });
      const error = await expectFailure('a lighthouse', { ...options, timeout: 200 }, 'upstream_timeout', /0.2 s/);
      expect(error.data.retryable).toBe(true);
      clock = 1000;
      await imagine('a lighthouse', options);
      expect(imagines.size).toBe(1);
    });

    const ends: [string, unknown, boolean][] = [
      ['RunPod stops the job', new DOMException('RunPod stopped the job', 'AbortError'), true],
      ['the worker has to stop', new Error('the worker had to stop'), false],
    ];
    for (const [what, reason, isFinal] of ends) {
      const canceled = isFinal && documented.cancels;
      test(`${what}: rejects, keeps the id, ${canceled ? 'cancels' : 'leaves it to a second job'}`, async () => {
        const controller = new AbortController();
        const { options, imagines } = await start({ duration: Number.POSITIVE_INFINITY });
        const abort = () => controller.abort(reason);
        const work = imagine('a lighthouse', { ...options, signal: controller.signal, onProgress: abort });
        await expect(work).rejects.not.toBeInstanceOf(JobError); // whoever aborted knows why
        expect(await record()).toHaveProperty('id');
        expect([...imagines.values()].map((imagine) => imagine.canceled)).toEqual([canceled]);
      });
    }

    test('pictures that can’t be had at first are fetched again, with new addresses', async () => {
      const { options, calls, imagines } = await start({
        intervene: only('picture', (_, __, c) => (calls.status === 1 ? c.text('not yet', 404) : undefined)),
      });
      await imagine('a lighthouse', options);
      await expectFour();
      expect(calls.status).toBe(2);
      expect(imagines.size).toBe(1);
    });

    test('pictures that are none: image_unavailable, and a second job asks nobody', async () => {
      let broken = true;
      const { options, imagines } = await start({
        intervene: only('picture', (_, __, c) => (broken ? c.text('<html>') : undefined)),
      });
      await expectFailure('a lighthouse', options, 'image_unavailable');
      broken = false;
      await imagine('a lighthouse', options);
      await expectFour();
      expect(imagines.size).toBe(1);
    });

    test(documented.onlyGrid ? 'without pictures of each, the grid’s quarters' : 'its grid’s quarters', async () => {
      const { options } = await start({
        intervene: only('status', async (_, __, c, answer) => {
          const own = await (await answer()).json();
          return c.json(documented.onlyGrid ? documented.onlyGrid(own as never) : own);
        }),
      });
      await imagine('a lighthouse', options);
      await expectFour();
      for (const png of await saved()) expect(await sharp(png).metadata()).toMatchObject({ width: 64, height: 32 });
    });

    if (documented.onlyGrid) {
      test('pictures that can’t be had, where the grid can: its quarters', async () => {
        const { options, calls } = await start({
          intervene: only('picture', (_, __, c) => (c.req.path.includes('grid') ? undefined : c.text('no', 403))),
        });
        await imagine('a lighthouse', options);
        await expectFour();
        expect(calls.status).toBe(1);
      });
    }

    test('a redirect is not followed: it would carry the key and the prompt elsewhere', async () => {
      const elsewhere = await start();
      for (const status of [302, 307, 308] as const) {
        await bucket.delete(`tasks/${TASK}`);
        const { options } = await start({
          intervene: only('imagine', (_, __, c) =>
            c.redirect(new URL(c.req.path, elsewhere.baseUrl).href, status as 302),
          ),
        });
        await expectFailure('a lighthouse', options, 'upstream_error');
      }
      expect(elsewhere.paths).toEqual([]);
    });

    test('pictures on the bridge’s own host may be fetched from a private address, others not', async () => {
      const { bridge, baseUrl } = await start();
      expect(bridge.trusts(new URL('/picture.png', baseUrl))).toBe(true);
      expect(bridge.trusts(new URL('http://127.0.0.1:1/picture.png'))).toBe(false);
    });
  });
}
