import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { SMALL_SVD } from '../../handler/models/testdata/reference.ts';
import { cacheName, findWeights, REPOSITORIES } from '../../handler/models/weights.ts';
import { type HubOptions, type LocalHub, startHub } from '../simulators/hub-server.ts';
import { bringWeights } from './bring-weights.ts';

const REPOSITORY = REPOSITORIES.svd_xt;
/** In place of real weights, to be quick. */
const WEIGHTS = Object.fromEntries(
  ['image_encoder/model', 'vae/diffusion_pytorch_model', 'unet/diffusion_pytorch_model'].map((stem) => [
    `${stem}.fp16.safetensors`,
    stem,
  ]),
);

let home: string;
let hub: LocalHub;
let volumes: { serverless: string; pod: string };
let env: NodeJS.ProcessEnv;

async function startWith(options: Partial<HubOptions> = {}) {
  hub = await startHub({ repository: REPOSITORY, folder: SMALL_SVD, extraFiles: WEIGHTS, ...options });
  env = { HF_HOME: join(home, 'hf'), HF_ENDPOINT: hub.url, RUNPOD_LOG_LEVEL: 'ERROR' };
}
beforeEach(async () => {
  home = mkdtempSync(join(tmpdir(), 'bring-'));
  volumes = { serverless: join(home, 'runpod-volume'), pod: join(home, 'workspace') };
  await startWith();
});
afterEach(async () => {
  await hub.close();
  rmSync(home, { recursive: true, force: true });
});

const found = () => findWeights('svd_xt', env, volumes).folder;
const bring = (name = 'svd_xt') => bringWeights(name, env, volumes);
/** How often a large file was sent. */
const sent = () => hub.requests.filter(({ origin }) => origin === 'cdn').length;

test('without a network volume they come into Hugging Face’s cache, once', async () => {
  await bring();
  expect(found()).toContain(join(home, 'hf/hub'));
  const count = hub.requests.length;
  await bring();
  expect(hub.requests).toHaveLength(count);
  expect(existsSync(volumes.serverless)).toBe(false);
});

test('with one they come there, once for several workers that start together', async () => {
  mkdirSync(volumes.serverless);
  await Promise.all([bring(), bring()]);
  expect(found()).toContain(volumes.serverless);
  expect(existsSync(join(home, 'hf'))).toBe(false);
  expect(sent()).toBe(Object.keys(WEIGHTS).length);
});

test('where it can’t be written to, or another cache is named, they come there', async () => {
  mkdirSync(volumes.serverless);
  const named = join(home, 'named');
  env.HF_HUB_CACHE = named;
  await bring();
  expect(found()).toContain(named);

  delete env.HF_HUB_CACHE;
  writeFileSync(join(volumes.serverless, 'huggingface-cache'), 'no folder');
  await bring();
  expect(found()).toContain(join(home, 'hf/hub', cacheName(REPOSITORY)));
});

test('nothing is fetched for the camera, or for a model that there is none', async () => {
  await bring('camera');
  await bring('constructor');
  expect(hub.requests).toEqual([]);
});

test('nor where MODEL_DIR lacks something', async () => {
  env.MODEL_DIR = home;
  await expect(bring()).rejects.toThrow(/^MODEL_DIR .* lacks feature_extractor/);
  expect(hub.requests).toEqual([]);
});

test('what keeps them away is said in one line', async () => {
  await hub.close();
  await startWith({ gated: true });
  await expect(bring()).rejects.toThrow(/^.*HF_TOKEN.*$/);
});
