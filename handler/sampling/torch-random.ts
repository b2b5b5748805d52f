/**
 * torch's CPU random numbers, bit for bit, so that a seed gives the same noise here as in the Python reference: MT19937 (Matsumoto &
 * Nishimura 1998) and the Box–Muller transform (1958), in the order and precision of torch 2.15 on x86 with AVX2. Each function names
 * the file of torch's source that it follows.
 */

/**
 * A generator like `torch.Generator('cpu')`: consecutive draws continue one stream.
 * @param seed any integer; only its low 32 bits count, as in torch
 */
export function generator(seed: number) {
  const next = mt19937(Number(BigInt.asUintN(32, BigInt(seed))));
  let cached: number | undefined; // the second value of a double Box–Muller pair

  /** Uniform in [0, 1) from 24 bits (uniform_real_distribution<float> in ATen/core/DistributionsHelper.h). */
  const uniform = () => (next() & 0xffffff) / 2 ** 24;
  /** Uniform in [0, 1) from 53 bits: 21 of the first word and 32 of the second. */
  const uniformDouble = () => {
    const high = next() & 0x1fffff;
    return (high * 2 ** 32 + next()) / 2 ** 53;
  };
  /** One value in double precision, for draws of fewer than 16 (normal_distribution<double>, same file). */
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
    /**
     * `n` standard normal values, as `torch.randn(n, dtype=…)` draws them (normal_fill in ATen/native/cpu/DistributionTemplates.h).
     * Values of float16 are rounded to half precision.
     */
    randn(n: number, dtype: 'float32' | 'float16' = 'float32'): Float32Array {
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
        for (let i = n - 16; i < n; i++) out[i] = uniform(); // torch draws the last 16 again, over finished values
        boxMullerInPlace(out, n - 16);
      }
      return finished();
    },
  };
}

/** The 32-bit Mersenne Twister (ATen/core/MT19937RNGEngine.h). @returns a function that draws unsigned 32-bit words */
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
 * a·b + c, rounded once: the product of two float32 is exact in a double. Which products torch's compiler fuses was found by trial;
 * any other choice fails the goldens.
 */
const fma = (a: number, b: number, c: number) => f32(a * b + c);
/** A polynomial by Horner's rule, the highest coefficient first. */
const polynomial = (coefficients: readonly number[], x: number) => coefficients.reduce((sum, c) => fma(sum, x, c));

const TWO_PI = f32(2 * Math.PI);

/** Turns 16 uniforms in [0, 1) into 16 normals: u1 are the first eight, u2 the last (normal_fill_16_AVX2, DistributionTemplates.h). */
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
const LOG_COEFFICIENTS = [
  7.0376836292e-2, -1.151461031e-1, 1.167699874e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
  2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
].map(f32);

/** Natural logarithm in float32 by the Cephes polynomial, for normal x > 0 (log256_ps in ATen/native/cpu/avx_mathfun.h). */
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
  let y = fma(f32(polynomial(LOG_COEFFICIENTS, m) * m), z, f32(exponent * LN2_LOW));
  y = fma(-z, 0.5, y);
  return fma(exponent, LN2_HIGH, f32(m + y));
}

const FOUR_OVER_PI = f32(1.27323954473516);
/** −π/4 in three parts, so that octants can be subtracted without loss. */
const MINUS_PI_4 = [-0.78515625, -2.4187564849853516e-4, -3.774894977445941e-8].map(f32);
const COS_COEFFICIENTS = [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2].map(f32);
const SIN_COEFFICIENTS = [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1].map(f32);

/** Sine and cosine in float32 by the Cephes polynomials, for 0 ≤ x < 8192 (sincos256_ps in avx_mathfun.h). */
function sincosf(x: number): [sin: number, cos: number] {
  const octant = (Math.trunc(f32(x * FOUR_OVER_PI)) + 1) & ~1;
  for (const part of MINUS_PI_4) x = fma(octant, part, x);
  const z = f32(x * x);
  const c = f32(fma(f32(polynomial(COS_COEFFICIENTS, z) * z), z, -0.5 * z) + 1);
  const s = fma(f32(polynomial(SIN_COEFFICIENTS, z) * z), x, x);
  const swap = (octant & 2) !== 0;
  const sin = swap ? c : s;
  const cos = swap ? s : c;
  return [octant & 4 ? -sin : sin, (octant + 2) & 4 ? -cos : cos];
}
