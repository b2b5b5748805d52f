import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { generator } from './torch-random.ts';

/** Made with torch 2.15 on CPU; `b64` holds little-endian float32 or float16 values (testdata/README.md). */
const goldens = JSON.parse(readFileSync(new URL('testdata/seeds.json', import.meta.url), 'utf8'));
type Dtype = 'float32' | 'float16';

function values(b64: string, dtype: Dtype): Float32Array {
  const bytes = new Uint8Array(Buffer.from(b64, 'base64'));
  return dtype === 'float32'
    ? new Float32Array(bytes.buffer)
    : Float32Array.from(new Uint16Array(bytes.buffer), fromHalf);
}

function fromHalf(bits: number): number {
  const sign = bits >> 15 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
}

for (const { seed, n, dtype, b64 } of goldens.cases) {
  test(`randn(${n}) in ${dtype} with seed ${seed} equals torch bit for bit`, () => {
    expect(generator(Number(seed)).randn(n, dtype)).toEqual(values(b64, dtype));
  });
}

for (const { seed, draws } of goldens.sequences) {
  test(`consecutive draws from one generator with seed ${seed} equal torch's`, () => {
    const { randn } = generator(Number(seed));
    for (const { shape, dtype, b64 } of draws) {
      const n = shape.reduce((product: number, size: number) => product * size, 1);
      expect(randn(n, dtype)).toEqual(values(b64, dtype));
    }
  });
}

test('only the low 32 bits of a seed count', () => {
  expect(generator(2 ** 32 + 42).randn(20)).toEqual(generator(42).randn(20));
  expect(generator(-1).randn(3)).toEqual(generator(2 ** 32 - 1).randn(3));
});
