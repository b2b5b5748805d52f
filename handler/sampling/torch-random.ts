/**
 * torch's CPU random numbers, bit for bit: MT19937 (Matsumoto & Nishimura 1998) under Box–Muller (1958), in the order and the
 * precision of torch 2.15 on x86 with AVX2 (ATen/native/cpu/DistributionTemplates.h, avx_mathfun.h). With them a seed gives
 * the same noise here as in the Python reference.
 */

/** A generator like `torch.Generator('cpu')`: consecutive draws continue one stream. */
export interface Generator {
  /** `n` standard normal values, as `torch.randn(n, dtype=…)` draws them; those of float16 are rounded to half precision. */
  randn(n: number, dtype?: 'float32' | 'float16'): Float32Array;
}

/** @param seed any integer; like torch, only its low 32 bits count. */
export function generator(seed: number): Generator {
  const next = mt19937(Number(BigInt.asUintN(32, BigInt(seed))));
  let cached: number | undefined; // the second value of a double Box–Muller pair, kept for the next short draw

  const uniform = () => (next() & 0xffffff) / 2 ** 24;
  const uniformDouble = () => {
    const high = next() & 0x1fffff; // 53 bits in all: 21 from the first word, 32 from the second
    return (high * 2 ** 32 + next()) / 2 ** 53;
  };
  const normalDouble = () => {
    if (cached !== undefined) {
      const value = cached;
      cached = undefined;
      return value;
    }
    const theta = 2 * Math.PI * uniformDouble();
    const radius = Math.sqrt(-2 * Math.log1p(-uniformDouble()));
    cached = radius * Math.sin(theta);
    return radius * Math.cos(theta);
  };

  return {
    randn(n, dtype = 'float32') {
      const out = new Float32Array(n);
      const finished = () => (dtype === 'float16' ? out.map(toHalf) : out);
      if (n < 16) {
        for (let i = 0; i < n; i++) out[i] = normalDouble();
        return finished();
      }
      const drawn = dtype === 'float16' ? n - (n % 16) : n; // in half precision torch draws whole blocks only
      for (let i = 0; i < drawn; i++) out[i] = uniform();
      for (let i = 0; i + 16 <= n; i += 16) boxMullerInPlace(out, i);
      if (n % 16 !== 0) {
        for (let i = n - 16; i < n; i++) out[i] = uniform(); // torch draws the last 16 anew, over finished values
        boxMullerInPlace(out, n - 16);
      }
      return finished();
    },
  };
}

/** The 32-bit Mersenne Twister; returns unsigned 32-bit words. */
function mt19937(seed: number): () => number {
  const N = 624;
  const M = 397;
  const state = new Uint32Array(N);
  state[0] = seed;
  for (let i = 1; i < N; i++) {
    const previous = state[i - 1]! ^ (state[i - 1]! >>> 30);
    state[i] = Math.imul(1812433253, previous) + i;
  }
  let index = N;
  return () => {
    if (index === N) {
      for (let i = 0; i < N; i++) {
        const y = (state[i]! & 0x80000000) | (state[(i + 1) % N]! & 0x7fffffff);
        state[i] = state[(i + M) % N]! ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      index = 0;
    }
    let y = state[index++]!;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

const f32 = Math.fround;
/**
 * a·b + c rounded once, for the product of two float32 is exact in a double. Which products the compiler fuses with which sums
 * was found by trying: any other choice fails the goldens.
 */
const fma = (a: number, b: number, c: number) => f32(a * b + c);

const TWO_PI = f32(2 * Math.PI);

/** 16 uniforms in [0, 1) at `start` become 16 normals: u1 from the first eight, u2 from the last eight. */
function boxMullerInPlace(values: Float32Array, start: number) {
  for (let i = start; i < start + 8; i++) {
    const radius = f32(Math.sqrt(f32(-2 * logf(f32(1 - values[i]!)))));
    const [sin, cos] = sincosf(f32(TWO_PI * values[i + 8]!));
    values[i] = radius * cos;
    values[i + 8] = radius * sin;
  }
}

/** The nearest half-precision number, ties to even; for |x| < 65504, as normals are. */
function toHalf(x: number): number {
  const ulp = 2 ** (Math.max(-14, Math.floor(Math.log2(Math.abs(x)))) - 10);
  const units = x / ulp;
  const below = Math.floor(units);
  const rest = units - below;
  const up = rest > 0.5 || (rest === 0.5 && below % 2 !== 0);
  return x === 0 ? x : (below + (up ? 1 : 0)) * ulp;
}

const bits = new Uint32Array(1);
const float = new Float32Array(bits.buffer);
const SQRT_HALF = f32(Math.SQRT1_2);
const LN2_HIGH = f32(0.693359375);
const LN2_LOW = f32(-2.1219444e-4);
const LOG_POLYNOMIAL = [
  7.0376836292e-2, -1.151461031e-1, 1.167699874e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
  2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
].map(f32);

/** Natural logarithm in float32 by the Cephes polynomial, for normal x > 0. */
function logf(x: number): number {
  float[0] = x;
  let exponent = (bits[0]! >>> 23) - 126;
  bits[0] = (bits[0]! & 0x807fffff) | 0x3f000000; // mantissa in [0.5, 1)
  let m = float[0]!;
  if (m < SQRT_HALF) {
    exponent -= 1;
    m = f32(f32(m - 1) + m);
  } else {
    m = f32(m - 1);
  }
  const z = f32(m * m);
  let y = LOG_POLYNOMIAL[0]!;
  for (let i = 1; i < 9; i++) y = fma(y, m, LOG_POLYNOMIAL[i]!);
  y = fma(f32(y * m), z, f32(exponent * LN2_LOW));
  y = fma(-z, 0.5, y);
  return fma(exponent, LN2_HIGH, f32(m + y));
}

const FOUR_OVER_PI = f32(1.27323954473516);
const [PI_4_A, PI_4_B, PI_4_C] = [-0.78515625, -2.4187564849853516e-4, -3.774894977445941e-8].map(f32) as [
  number,
  number,
  number,
];
const [COS_0, COS_1, COS_2] = [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2].map(f32) as [
  number,
  number,
  number,
];
const [SIN_0, SIN_1, SIN_2] = [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1].map(f32) as [
  number,
  number,
  number,
];

/** Sine and cosine in float32 by the Cephes polynomials, for 0 ≤ x < 8192. */
function sincosf(x: number): [sin: number, cos: number] {
  const octant = (Math.trunc(f32(x * FOUR_OVER_PI)) + 1) & ~1;
  x = fma(octant, PI_4_A, x);
  x = fma(octant, PI_4_B, x);
  x = fma(octant, PI_4_C, x);
  const z = f32(x * x);
  let c = fma(fma(COS_0, z, COS_1), z, COS_2);
  c = f32(fma(f32(c * z), z, -0.5 * z) + 1);
  let s = fma(fma(SIN_0, z, SIN_1), z, SIN_2);
  s = fma(f32(s * z), x, x);
  const swap = (octant & 2) !== 0;
  const sin = swap ? c : s;
  const cos = swap ? s : c;
  return [octant & 4 ? -sin : sin, (octant + 2) & 4 ? -cos : cos];
}
