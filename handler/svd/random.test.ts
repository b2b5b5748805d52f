import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { generator } from './random.ts';

/** Made with torch 2.15 on CPU; `b64` holds little-endian float32 values (testdata/README.md). */
const goldens = JSON.parse(readFileSync(new URL('testdata/seeds.json', import.meta.url), 'utf8'));
const floats = (b64: string) => new Float32Array(new Uint8Array(Buffer.from(b64, 'base64')).buffer);

for (const { seed, n, dtype, b64 } of goldens.cases) {
  if (dtype !== 'float32') continue;
  test(`randn(${n}) with seed ${seed} equals torch bit for bit`, () => {
    expect(generator(Number(seed)).randn(n)).toEqual(floats(b64));
  });
}

for (const { seed, draws } of goldens.sequences) {
  if (draws.some((draw: { dtype: string }) => draw.dtype !== 'float32')) continue;
  test(`consecutive draws from one generator with seed ${seed} equal torch's`, () => {
    const { randn } = generator(Number(seed));
    for (const { shape, b64 } of draws) {
      expect(randn(shape.reduce((a: number, b: number) => a * b, 1))).toEqual(floats(b64));
    }
  });
}

test('only the low 32 bits of a seed count', () => {
  expect(generator(2 ** 32 + 42).randn(20)).toEqual(generator(42).randn(20));
  expect(generator(-1).randn(3)).toEqual(generator(2 ** 32 - 1).randn(3));
});
