/** Too little memory: onnxruntime is made to fail with its own messages. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { InferenceSession } from 'onnxruntime-node';
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest';
import { JobError } from '../../core/job.ts';
import { generator } from '../sampling/torch-random.ts';
import type { ClipNeeds } from './model.ts';
import { openSvd, type SvdOptions } from './svd.ts';
import { SMALL_SVD, withFewLayers } from './testdata/reference.ts';

const GIB = 2 ** 30;
const size = { H: 64, W: 64, T: 3 };
const BFC_ARENA =
  "Non-zero status code returned while running Concat node. Name:'Concat_1' Status Message: bfc_arena.cc:360 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Failed to allocate memory for requested buffer of size 50331648";

const folder = mkdtempSync(join(tmpdir(), 'svd-memory-'));
withFewLayers(folder);
afterAll(() => rmSync(folder, { recursive: true }));
afterEach(() => vi.restoreAllMocks());

/**
 * Makes onnxruntime fail where `failureAt` gives a message, and opening and running last a fixed time.
 * @returns the counts of sessions that were opened and that are open
 */
function injectFailures(
  failureAt: (event: 'open' | 'run', inputs: readonly string[], frames: number) => string | undefined = () => undefined,
  durations = { open: 1, run: 1 },
) {
  let time = 0;
  vi.spyOn(performance, 'now').mockImplementation(() => time);
  const create = InferenceSession.create.bind(InferenceSession) as (...all: unknown[]) => Promise<InferenceSession>;
  const sessions = { opened: 0, open: 0 };
  vi.spyOn(InferenceSession, 'create').mockImplementation((async (...all: unknown[]) => {
    const session = await create(...all);
    time += durations.open;
    const { inputNames } = session;
    const refusal = failureAt('open', inputNames, 0);
    if (refusal) {
      await session.release();
      throw new Error(refusal);
    }
    sessions.open++;
    sessions.opened++;
    const run = session.run.bind(session);
    const release = session.release.bind(session);
    session.run = async (feeds: InferenceSession.FeedsType) => {
      const failure = failureAt('run', inputNames, feeds.latents?.dims[0] ?? 0);
      if (failure) throw new Error(failure);
      time += durations.run;
      return run(feeds);
    };
    session.release = async () => {
      sessions.open--;
      return release();
    };
    return session;
  }) as typeof InferenceSession.create);
  return sessions;
}

async function framesOf(model: ReturnType<typeof openSvd>, decoding_t: number, changes: Partial<ClipNeeds> = {}) {
  const { randn } = generator(5);
  const { H, W, T, unet } = { unet: undefined, ...size, ...changes };
  const still = { data: Uint8Array.from({ length: 3 * H * W }, (_, i) => i % 251), width: W, height: H };
  const numbers = { fps: 6, motion_bucket_id: 127, cond_aug: 0.02, steps: 25 };
  const { signal } = new AbortController();
  const clip = await model.open({ ...numbers, H, W, T, unet, decoding_t, still, randn, signal });
  try {
    const noise = randn(clip.shape.reduce((product, length) => product * length, 1));
    const x = await clip.denoise(noise, 1, true, 0);
    const frames: Uint8Array[] = [];
    for await (const frame of clip.decode(x)) frames.push(frame);
    return { frames, warnings: [...clip.warnings] };
  } finally {
    await clip.close();
  }
}

const open = (options: SvdOptions = {}) => openSvd(folder, { threads: 1, memory: 16 * GIB, ...options });

describe('when memory runs out at decoding', () => {
  test('as each library reports it, half as many frames are decoded at a time and a warning says so', async () => {
    let message: string | undefined;
    injectFailures((event, inputs, frames) =>
      event === 'run' && inputs.includes('latents') && frames > 2 ? message : undefined,
    );
    const model = open(); // one, because opening the networks takes longest
    const expected = await framesOf(model, 2, { T: 4 });
    expect(expected.warnings).toEqual([]);
    const messages = {
      'BFC arena': BFC_ARENA,
      'the C++ library': 'Non-zero status code returned while running Conv node. Status Message: std::bad_alloc',
      CUDA: 'CUDA failure 2: out of memory ; GPU=0 ; hostname=worker ; expr=cudaMalloc(&p, size);',
      cuDNN: 'CUDNN failure 4000: CUDNN_STATUS_ALLOC_FAILED ; GPU=0',
      cuBLAS: 'CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0',
    };
    for (const library of Object.keys(messages) as (keyof typeof messages)[]) {
      message = messages[library];
      const { frames, warnings } = await framesOf(model, 4, { T: 4 });
      expect(frames, library).toEqual(expected.frames);
      expect(warnings, library).toEqual([
        { field: 'decoding_t', message: 'memory is enough to decode 2 frames at a time, not 4' },
      ]);
    }
    await model.close();
  });

  test('with one frame the job fails with out_of_memory, and the next job works', async () => {
    let isShort = true;
    injectFailures((event, inputs) =>
      isShort && event === 'run' && inputs.includes('latents') ? BFC_ARENA : undefined,
    );
    const model = open();
    const failure = await framesOf(model, 3).catch((error) => error);
    expect(failure).toBeInstanceOf(JobError);
    expect(failure.data).toEqual({
      code: 'out_of_memory',
      message: 'memory ran out at W 64, H 64, T 3; use a smaller size or fewer frames',
      retryable: false,
    });
    isShort = false;
    expect((await framesOf(model, 3)).frames).toHaveLength(3);
    await model.close();
  });
});

describe('when memory runs out while a session is opened', () => {
  test('the network is opened with mapped weights instead', async () => {
    const policies: string[] = [];
    let first = true;
    injectFailures((event, inputs) => {
      if (event !== 'open' || !inputs.includes('sample') || !first) return undefined;
      first = false;
      return 'Exception during initialization: std::bad_alloc';
    });
    const model = open({ onOpen: ({ network, policy }) => policies.push(`${network} ${policy}`) });
    expect((await framesOf(model, 3)).frames).toHaveLength(3);
    expect(policies).toEqual(['clip prepacked', 'encoder prepacked', 'unet mapped', 'decoder prepacked']);
    await model.close();
  });

  test('and again with mapped weights, the job fails with out_of_memory, all sessions are closed, and the next job works', async () => {
    let isShort = true;
    const sessions = injectFailures((event) =>
      event === 'open' && isShort ? 'Exception during initialization: std::bad_alloc' : undefined,
    );
    const model = open();
    await expect(framesOf(model, 3)).rejects.toMatchObject({ name: 'JobError', code: 'out_of_memory' });
    expect(sessions.open).toBe(0);
    isShort = false;
    expect((await framesOf(model, 3)).frames).toHaveLength(3);
    await model.close();
    expect(sessions.open).toBe(0);
  });

  test('another failure is thrown unchanged', async () => {
    injectFailures((event, inputs) => (event === 'open' && inputs.includes('sample') ? 'no such operator' : undefined));
    const model = open();
    await expect(framesOf(model, 3)).rejects.toThrow(/^no such operator$/);
    await model.close();
  });
});

describe('before a clip is opened', () => {
  test('a clip that does not fit fails with the largest sizes that do', async () => {
    const model = open({ memory: GIB });
    const large = { H: 1024, W: 2048, T: 100 };
    let message = '';
    try {
      model.check(large);
    } catch (error) {
      expect(error).toMatchObject({ name: 'JobError', code: 'out_of_memory' });
      ({ message } = error as Error);
    }
    const [, frames, W, H] =
      /^W 2048, H 1024, T 100 needs about \d+\.\d GiB of memory, and this worker has 1\.0 GiB: at most (?:T (\d+) at this size, or )?W (\d+), H (\d+) with as many frames$/.exec(
        message,
      ) ?? expect.fail(message);
    if (frames) {
      expect(() => model.check({ ...large, T: Number(frames) })).not.toThrow();
      expect(() => model.check({ ...large, T: Number(frames) + 1 })).toThrow();
    }
    expect(() => model.check({ H: Number(H), W: Number(W), T: 100 })).not.toThrow();
    expect(() => model.check({ H: Number(H) + 64, W: Number(W) + 128, T: 100 })).toThrow();
    await expect(framesOf(model, 1, large)).rejects.toMatchObject({ code: 'out_of_memory' });
    await model.close();
  });

  test('where not even the smallest clip fits, the error says so', () => {
    expect(() => open({ memory: 1000 }).check(size)).toThrow(/^W 64, H 64, T 3 needs about .*: no clip fits into it$/);
  });

  test('fewer frames than decoding_t are decoded at a time if memory requires it', async () => {
    const wide = { H: 128, W: 128, T: 4 };
    const model = open({ memory: 0.05 * GIB });
    const { frames, warnings } = await framesOf(model, 4, wide);
    expect(frames).toHaveLength(4);
    const [, most] = /^memory is enough to decode (\d) frames at a time, not 4$/.exec(warnings[0]?.message ?? '') ?? [];
    expect([1, 2]).toContain(Number(most));
    await model.close();

    const unlimited = open();
    const expected = (await framesOf(unlimited, Number(most), wide)).frames;
    const apart = frames.map((frame, t) => Math.max(...frame.map((level, i) => Math.abs(level - expected[t]![i]!))));
    expect(Math.max(...apart)).toBeLessThan(2); // weights that stay in their file are computed with in another order
    await unlimited.close();
  });
});

describe('sessions', () => {
  test('are kept for the next job of the same size and after a preload', async () => {
    const sessions = injectFailures();
    const model = open();
    await model.preload({ ...size, decoding_t: 3, steps: 25 });
    expect(sessions).toEqual({ opened: 4, open: 4 });
    await framesOf(model, 3);
    await framesOf(model, 3);
    expect(sessions).toEqual({ opened: 4, open: 4 });
    await framesOf(model, 3, { T: 2 });
    await framesOf(model, 3);
    expect(sessions).toEqual({ opened: 6, open: 6 }); // UNet and decoder for each number of frames
    await model.close();
    expect(sessions.open).toBe(0);
  });

  test('are closed after clips that take so long that opening is negligible', async () => {
    const sessions = injectFailures(undefined, { open: 1, run: 5 }); // of the UNet fifty
    const model = open();
    await framesOf(model, 2);
    expect(sessions).toEqual({ opened: 5, open: 1 }); // two decoders, for two frames and for one; CLIP's stays
    await framesOf(model, 1);
    expect(sessions).toEqual({ opened: 8, open: 1 });
    await model.close();
    expect(sessions.open).toBe(0);
  });

  test('are closed when other sessions need their memory', async () => {
    const sessions = injectFailures();
    const model = open({ memory: 0.04 * GIB });
    await framesOf(model, 3);
    expect(sessions.open).toBeLessThan(4);
    expect((await framesOf(model, 3)).frames).toHaveLength(3);
    expect(sessions.opened).toBeGreaterThan(4);
    await model.close();
  });

  test('are at most 12, however many sizes there are', async () => {
    const sessions = injectFailures();
    const model = open();
    for (let T = 1; T <= 6; T++) await framesOf(model, T, { T }); // UNet and decoder for each size, and two for all sizes
    expect(sessions.opened).toBe(14);
    expect(sessions.open).toBe(12);
    await model.close();
  });
});

describe('the UNet for drafts', () => {
  const draftUnet = join(SMALL_SVD, 'unet/diffusion_pytorch_model.fp16.safetensors');
  const unet = 'animatelcm_svd_xt';

  test.each([
    [70, 1],
    [45, 2],
  ])('shares the limit: with %d MiB the other UNet is opened %d times', async (mebibytes, times) => {
    const opened: string[] = [];
    const onOpen = ({ network }: { network: string }) => void opened.push(network);
    const model = open({ memory: mebibytes * 2 ** 20, draftUnet, onOpen });
    for (const changes of [{}, {}, { unet }, {}] as const) await framesOf(model, 1, changes);
    const unets = opened.filter((network) => network.startsWith('unet'));
    expect(unets).toEqual(['unet', `unet of ${unet}`, 'unet'].slice(0, 1 + times));
    await model.close();
  });

  test('is refused where it does not fit', () => {
    const needs = /^W 64, H 64, T 3 needs about .*: no clip fits into it$/;
    expect(() => open({ memory: 1000, draftUnet }).check({ ...size, unet })).toThrow(needs);
  });
});
