import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { openSvd } from './svd.ts';
import { SMALL_SVD } from './testdata/reference.ts';
import { cacheName, findUnet, findWeights, hubCache, REPOSITORIES, SUFFIXES, UNETS } from './weights.ts';

const NAME = cacheName(REPOSITORIES.svd_xt);
const [OLD, NEW] = ['a'.repeat(40), 'b'.repeat(40)];

let root: string;
let volumes: { serverless: string; pod: string };
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'weights-'));
  volumes = { serverless: join(root, 'runpod-volume'), pod: join(root, 'workspace') };
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

const find = (env: NodeJS.ProcessEnv = {}) => findWeights('svd_xt', { HOME: root, ...env }, volumes);

/** Copies a complete model. */
function putModel(...path: string[]): string {
  const folder = join(root, ...path);
  cpSync(SMALL_SVD, folder, { recursive: true });
  return folder;
}

function putRef(cache: string, commit: string) {
  const path = join(root, cache, NAME, 'refs/main');
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, commit);
}

test('findWeights searches MODEL_DIR, then the cache, then RunPod’s cached models, then volumes', () => {
  const env = { HF_HOME: join(root, 'hf'), MODEL_DIR: putModel('mine') };
  const places = [
    { folder: env.MODEL_DIR, source: 'MODEL_DIR' },
    { folder: putModel('hf/hub', NAME, 'snapshots', OLD), source: 'Hugging Face cache' },
    {
      folder: putModel('runpod-volume/huggingface-cache/hub', NAME, 'snapshots', OLD),
      source: 'RunPod cached model',
    },
    { folder: putModel('runpod-volume/models/stable-video-diffusion-img2vid-xt'), source: 'network volume' },
    { folder: putModel('runpod-volume/models/svd_xt'), source: 'network volume' },
    { folder: putModel('workspace/models/stable-video-diffusion-img2vid-xt'), source: 'network volume' },
    { folder: putModel('workspace/models/svd_xt'), source: 'network volume' },
  ];
  expect(find(env)).toEqual(places[0]);
  for (const [i, place] of places.slice(1).entries()) {
    expect(find({ ...env, MODEL_DIR: '' })).toEqual(place);
    rmSync(places[i + 1]!.folder, { recursive: true });
  }
  expect(() => find({ ...env, MODEL_DIR: '' })).toThrow();
});

test('findWeights searches only MODEL_DIR if it is set', () => {
  putModel('.cache/huggingface/hub', NAME, 'snapshots', OLD);
  const folder = putModel('mine');
  rmSync(join(folder, 'unet'), { recursive: true });
  expect(() => find({ MODEL_DIR: folder })).toThrow(
    `MODEL_DIR ${folder} lacks unet/config.json, unet/diffusion_pytorch_model.safetensors`,
  );
  expect(() => find({ MODEL_DIR: join(root, 'none') })).toThrow(`MODEL_DIR ${join(root, 'none')} is not there`);
});

test('without a model the error names every place and the command that downloads it', () => {
  const folder = putModel('.cache/huggingface/hub', NAME, 'snapshots', OLD);
  rmSync(join(folder, 'vae'), { recursive: true });
  expect(() => find()).toThrow(
    [
      'the files of svd_xt are in none of these places; npm run models -- svd_xt downloads them:',
      `  ${folder} lacks vae/config.json, vae/diffusion_pytorch_model.safetensors`,
      `  ${volumes.serverless}/huggingface-cache/hub/${NAME}/snapshots is not there`,
      `  ${volumes.serverless}/models/stable-video-diffusion-img2vid-xt is not there`,
      `  ${volumes.serverless}/models/svd_xt is not there`,
      `  ${volumes.pod}/models/stable-video-diffusion-img2vid-xt is not there`,
      `  ${volumes.pod}/models/svd_xt is not there`,
    ].join('\n'),
  );
});

test('the first variable that is set determines the cache', () => {
  const order = [
    ['HF_HUB_CACHE', '/a', '/a'],
    ['HUGGINGFACE_HUB_CACHE', '/b', '/b'],
    ['HF_HOME', '/c', '/c/hub'],
    ['XDG_CACHE_HOME', '/d', '/d/huggingface/hub'],
    ['HOME', '/e', '/e/.cache/huggingface/hub'],
  ] as const;
  for (const i of order.keys()) {
    const env = Object.fromEntries([
      ...order.slice(0, i).map(([name]) => [name, '']), // empty counts as absent
      ...order.slice(i).map(([name, value]) => [name, value]),
    ]);
    expect(hubCache(env)).toBe(order[i]![2]);
  }
  expect(hubCache({ HOME: '/e', HF_HOME: '~/models' })).toBe('/e/models/hub');
});

test('the snapshot is the one that refs/main names, else the newest', () => {
  const old = putModel('.cache/huggingface/hub', NAME, 'snapshots', OLD);
  const recent = putModel('.cache/huggingface/hub', NAME, 'snapshots', NEW);
  utimesSync(old, 1000, 1000);
  expect(find().folder).toBe(recent);
  utimesSync(old, 1e10, 1e10);
  expect(find().folder).toBe(old);
  putRef('.cache/huggingface/hub', NEW);
  expect(find().folder).toBe(recent);
  putRef('.cache/huggingface/hub', 'c'.repeat(40)); // was deleted
  expect(find().folder).toBe(old);
});

test('an incomplete snapshot is skipped, also the one that refs/main names', () => {
  const old = putModel('.cache/huggingface/hub', NAME, 'snapshots', OLD);
  const recent = putModel('.cache/huggingface/hub', NAME, 'snapshots', NEW);
  utimesSync(old, 1000, 1000);
  putRef('.cache/huggingface/hub', NEW);
  const weights = join(recent, 'unet/diffusion_pytorch_model.fp16.safetensors');
  rmSync(weights);
  expect(find().folder).toBe(old);
  symlinkSync('../../blobs/none', weights); // as a broken download of Python's leaves none, but a deleted blob does
  expect(find().folder).toBe(old);
  rmSync(weights);
  cpSync(join(old, 'unet/diffusion_pytorch_model.fp16.safetensors'), weights.replace(SUFFIXES.fp16, SUFFIXES.fp32));
  expect(find().folder).toBe(recent);
});

test('a model that is found opens', async () => {
  putModel('.cache/huggingface/hub', NAME, 'snapshots', OLD);
  await openSvd(find().folder).close();
});

describe('AnimateLCM, which has only a UNet of its own', () => {
  const { repository, file } = UNETS.animatelcm_svd_xt!;
  const findOwn = (env: NodeJS.ProcessEnv = {}) => findWeights('animatelcm_svd_xt', { HOME: root, ...env }, volumes);
  /** A copy of the model without a UNet. */
  function putOthers(...path: string[]): string {
    const folder = putModel(...path);
    rmSync(join(folder, 'unet/diffusion_pytorch_model.fp16.safetensors'));
    return folder;
  }
  function putUnet(...path: string[]): string {
    const to = join(root, ...path, file);
    mkdirSync(dirname(to), { recursive: true });
    cpSync(join(SMALL_SVD, 'unet/diffusion_pytorch_model.fp16.safetensors'), to);
    return to;
  }

  test('has the other files of svd_xt, and opens', async () => {
    const folder = putOthers('.cache/huggingface/hub', NAME, 'snapshots', OLD);
    expect(() => findOwn()).toThrow(`  ${volumes.pod}/models/animatelcm_svd_xt/unet/${file} is not there`);
    expect(() => findOwn()).not.toThrow(folder);
    const unet = putUnet('.cache/huggingface/hub', cacheName(repository), 'snapshots', NEW);
    expect(findOwn()).toEqual({ folder, unet, source: 'Hugging Face cache' });
    expect(() => find()).toThrow('lacks unet/diffusion_pytorch_model.safetensors'); // svd_xt itself is incomplete
    await openSvd(folder, { unet }).close();
  });

  test('its UNet alone is found too', () => {
    const findUnetAlone = (env: NodeJS.ProcessEnv = {}) =>
      findUnet('animatelcm_svd_xt', { HOME: root, ...env }, volumes);
    expect(findUnetAlone()).toBeUndefined();
    const onVolume = putUnet('workspace/models/animatelcm_svd_xt/unet');
    expect(findUnetAlone()).toBe(onVolume);
    const cached = putUnet('.cache/huggingface/hub', cacheName(repository), 'snapshots', NEW);
    expect(findUnetAlone()).toBe(cached);
    expect(findUnetAlone({ MODEL_DIR: join(root, 'mine') })).toBeUndefined();
    const own = putUnet('mine/unet');
    expect(findUnetAlone({ MODEL_DIR: join(root, 'mine') })).toBe(own);
    expect(findUnet('svd_xt', { HOME: root }, volumes)).toBeUndefined();
  });

  test('is found on a network volume', () => {
    const folder = putOthers('workspace/models/animatelcm_svd_xt');
    const unet = putUnet('workspace/models/animatelcm_svd_xt/unet');
    expect(findOwn()).toEqual({ folder, unet, source: 'network volume' });
  });

  test('is not made from the UNet of svd_xt in MODEL_DIR', () => {
    const folder = putModel('mine');
    expect(() => findOwn({ MODEL_DIR: folder })).toThrow(`MODEL_DIR ${folder} lacks unet/${file}`);
    const unet = putUnet('mine/unet');
    expect(findOwn({ MODEL_DIR: folder })).toEqual({ folder, unet, source: 'MODEL_DIR' });
  });
});
