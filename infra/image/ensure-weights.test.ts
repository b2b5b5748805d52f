import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { SMALL_SVD } from '../../handler/models/testdata/reference.ts';
import { cacheName, findWeights, REPOSITORIES } from '../../handler/models/weights.ts';
import { type HubOptions, type LocalHub, startHub } from '../simulators/hub-server.ts';
import { ensureWeights } from './ensure-weights.ts';

const REPOSITORY = REPOSITORIES.svd_xt;
/** Small files instead of real weights. */
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
  home = mkdtempSync(join(tmpdir(), 'weights-'));
  volumes = { serverless: join(home, 'runpod-volume'), pod: join(home, 'workspace') };
  await startWith();
});
afterEach(async () => {
  await hub.close();
  rmSync(home, { recursive: true, force: true });
});

const found = () => findWeights('svd_xt', env, volumes).folder;
const ensure = (name = 'svd_xt') => ensureWeights(name, env, volumes);
/** How many large files were sent. */
const sent = () => hub.requests.filter(({ origin }) => origin === 'cdn').length;

test('without a network volume the weights are downloaded once, into Hugging Face’s cache', async () => {
  await ensure();
  expect(found()).toContain(join(home, 'hf/hub'));
  const count = hub.requests.length;
  await ensure();
  expect(hub.requests).toHaveLength(count);
  expect(existsSync(volumes.serverless)).toBe(false);
});

test('with a network volume they are downloaded to it, once for several workers that start together', async () => {
  mkdirSync(volumes.serverless);
  await Promise.all([ensure(), ensure()]);
  expect(found()).toContain(volumes.serverless);
  expect(existsSync(join(home, 'hf'))).toBe(false);
  expect(sent()).toBe(Object.keys(WEIGHTS).length);
});

test('they go into the configured or default cache where the volume is read-only or another cache is configured', async () => {
  mkdirSync(volumes.serverless);
  const named = join(home, 'named');
  env.HF_HUB_CACHE = named;
  await ensure();
  expect(found()).toContain(named);

  delete env.HF_HUB_CACHE;
  writeFileSync(join(volumes.serverless, 'huggingface-cache'), 'no folder');
  await ensure();
  expect(found()).toContain(join(home, 'hf/hub', cacheName(REPOSITORY)));
});

test('nothing is downloaded for the camera or an unknown model', async () => {
  await ensure('camera');
  await ensure('constructor');
  expect(hub.requests).toEqual([]);
});

test('nothing is downloaded where MODEL_DIR is incomplete', async () => {
  env.MODEL_DIR = home;
  await expect(ensure()).rejects.toThrow(/^MODEL_DIR .* lacks feature_extractor/);
  expect(hub.requests).toEqual([]);
});

test('a failed download is one line', async () => {
  await hub.close();
  await startWith({ gated: true });
  await expect(ensure()).rejects.toThrow(/^.*HF_TOKEN.*$/);
});
