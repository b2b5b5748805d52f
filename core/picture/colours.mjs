/**
 * Converts colours that libvips takes for sRGB although the file says otherwise: those of a PNG with cICP, or gAMA and cHRM, and of an AVIF
 * with nclx. Converts CMYK without a profile, too. The results equal Chromium's. libvips converts what has an ICC profile.
 */

import { readProperties } from './heif.mjs';

/** x and y of red, green, blue and white, by the code points of ITU-T H.273. */
const PRIMARIES = {
  1: [0.64, 0.33, 0.3, 0.6, 0.15, 0.06, 0.3127, 0.329], // BT.709, sRGB
  4: [0.67, 0.33, 0.21, 0.71, 0.14, 0.08, 0.31, 0.316], // BT.470 M
  5: [0.64, 0.33, 0.29, 0.6, 0.15, 0.06, 0.3127, 0.329], // BT.601, 625 lines
  6: [0.63, 0.34, 0.31, 0.595, 0.155, 0.07, 0.3127, 0.329], // BT.601, 525 lines
  7: [0.63, 0.34, 0.31, 0.595, 0.155, 0.07, 0.3127, 0.329], // SMPTE 240M
  8: [0.681, 0.319, 0.243, 0.692, 0.145, 0.049, 0.31, 0.316], // film
  9: [0.708, 0.292, 0.17, 0.797, 0.131, 0.046, 0.3127, 0.329], // BT.2020
  10: [1, 0, 0, 1, 0, 0, 1 / 3, 1 / 3], // XYZ
  11: [0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.314, 0.351], // DCI P3
  12: [0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329], // Display P3
  22: [0.63, 0.34, 0.295, 0.605, 0.155, 0.077, 0.3127, 0.329], // EBU 3213
};
const BT709 = 1;
const BT2020 = 9;
const SRGB = 13;
const PQ = 16;
const HLG = 18;
const UNSPECIFIED = 2;

/** Nits of white in HDR (BT.2408). */
const WHITE = 203;
/** Nits of the brightest pixel, where the file does not say: the peak of HLG's reference display, and usual for PQ. */
const PEAK = 1000;

/** BT.1886: how displays show BT.709 and its like. */
const fromVideo = (v) => v ** 2.4;
const fromSrgb = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);

/** SMPTE ST 2084. @returns multiples of WHITE */
function fromPq(v) {
  const p = v ** (32 / 2523);
  const nits = 10_000 * (Math.max(0, p - 3424 / 4096) / (2413 / 128 - (2392 / 128) * p)) ** (16_384 / 2610);
  return nits / WHITE;
}

/** BT.2100's inverse OETF. @returns light of the scene, 0 to 1 */
function fromHlg(v) {
  const a = 0.17883277;
  const b = 1 - 4 * a;
  const c = 0.5 - a * Math.log(4 * a);
  return v <= 0.5 ? (v * v) / 3 : (Math.exp((v - c) / a) + b) / 12;
}

/** From a stored value, 0 to 1, to light, by the code points of ITU-T H.273. Chromium ignores the others (logarithmic ones, BT.1361). */
const TRANSFERS = {
  1: fromVideo,
  4: (v) => v ** 2.2,
  5: (v) => v ** 2.8,
  6: fromVideo,
  7: (v) => (v < 0.0913 ? v / 4 : ((v + 0.1115) / 1.1115) ** (1 / 0.45)), // SMPTE 240M
  8: (v) => v,
  11: fromVideo, // xvYCC
  13: fromSrgb,
  14: fromVideo,
  15: fromVideo,
  16: fromPq,
  17: (v) => (52.37 / 48) * v ** 2.6, // SMPTE ST 428-1
  18: fromHlg,
};

/** @typedef {{primaries: number[], transfer: (v: number) => number, peak?: number}} Colours peak: nits, of PQ and HLG */

/**
 * The colours of a picture that libvips would not convert to sRGB as a browser does.
 * @param {Buffer} bytes
 * @param {import('sharp').Metadata} metadata
 * @returns {Colours | 'CMYK' | undefined} undefined: sRGB, or an ICC profile says what they are
 * @throws RangeError the file is malformed
 */
export function readColours(bytes, { space, hasProfile }) {
  if (space === 'cmyk') return hasProfile ? undefined : 'CMYK';
  if (bytes.toString('latin1', 1, 4) === 'PNG') return readPngColours(bytes);
  if (bytes.toString('latin1', 4, 8) === 'ftyp') return readAvifColours(bytes);
}

const COLOUR_CHUNKS = ['cICP', 'iCCP', 'sRGB', 'gAMA', 'cHRM', 'cLLI', 'mDCV'];

/** By precedence: cICP, iCCP, sRGB, gAMA and cHRM. */
function readPngColours(bytes) {
  /** @type {Record<string, Buffer>} */
  const chunks = {};
  for (let at = 8; at + 8 <= bytes.length; ) {
    const length = bytes.readUInt32BE(at);
    const type = bytes.toString('latin1', at + 4, at + 8);
    if (type === 'IDAT') break;
    if (COLOUR_CHUNKS.includes(type)) chunks[type] ??= bytes.subarray(at + 8, at + 8 + length);
    at += 12 + length;
  }
  const { cICP, iCCP, sRGB, gAMA, cHRM, cLLI, mDCV } = chunks;
  if (cICP?.length === 4 && cICP[0] in PRIMARIES && cICP[1] in TRANSFERS) {
    const [contentLight, display] = [cLLI?.length === 8 ? cLLI : undefined, mDCV?.length === 24 ? mDCV : undefined];
    // Both count in ten thousandths of a nit.
    const peak = (contentLight?.readUInt32BE() || display?.readUInt32BE(16) || 0) / 10_000;
    const isSrgb = cICP[0] === BT709 && cICP[1] === SRGB;
    return isSrgb && !iCCP ? undefined : fromCodePoints(cICP[0], cICP[1], peak);
  }
  if (iCCP || sRGB || gAMA?.length !== 4) return;
  const gamma = gAMA.readUInt32BE() / 100_000;
  if (gamma === 0) return;
  const transfer = (v) => v ** (1 / gamma);
  if (cHRM?.length !== 32) {
    const isSrgb = Math.abs(2.2 * gamma - 1) < 0.05; // writers mean sRGB by 1/2.2
    return isSrgb ? undefined : { primaries: PRIMARIES[BT709], transfer };
  }
  const [whiteX, whiteY, ...primaries] = Array.from({ length: 8 }, (_, i) => cHRM.readInt32BE(4 * i) / 100_000);
  primaries.push(whiteX, whiteY);
  const isPossible = matrixBetween(primaries, PRIMARIES[BT709]).flat().every(Number.isFinite);
  return isPossible ? { primaries, transfer } : undefined;
}

/** @returns {Colours} */
function fromCodePoints(primaries, transfer, peak) {
  const isHdr = transfer === PQ || transfer === HLG;
  return { primaries: PRIMARIES[primaries], transfer: TRANSFERS[transfer], peak: isHdr ? peak || PEAK : undefined };
}

/** Of the primary item. An ICC profile has precedence. */
function readAvifColours(bytes) {
  const properties = readProperties(bytes);
  const isProfile = ({ type, data }) => type === 'colr' && ['prof', 'rICC'].includes(data.toString('latin1', 0, 4));
  if (properties.some(isProfile)) return;
  const nclx = properties.find(({ type, data }) => type === 'colr' && data.toString('latin1', 0, 4) === 'nclx')?.data;
  if (!nclx) return;
  let [primaries, transfer] = [nclx.readUInt16BE(4), nclx.readUInt16BE(6)];
  if (primaries === UNSPECIFIED || !(primaries in PRIMARIES)) primaries = BT709;
  // Of an AVIF, unlike a PNG, Chromium takes the curve of video for sRGB's.
  if (!(transfer in TRANSFERS) || TRANSFERS[transfer] === fromVideo) transfer = SRGB;
  if (primaries === BT709 && transfer === SRGB) return;
  const contentLight = properties.find(({ type }) => type === 'clli')?.data;
  const display = properties.find(({ type }) => type === 'mdcv')?.data;
  const peak = contentLight?.readUInt16BE() || (display?.readUInt32BE(16) ?? 0) / 10_000;
  return fromCodePoints(primaries, transfer, peak);
}

/**
 * @param {import('sharp').Sharp} picture
 * @param {import('sharp').Metadata} metadata
 * @param {Colours | 'CMYK'} colours
 * @returns {Promise<{data: Uint8Array, info: {width: number, height: number, channels: 3 | 4}}>} sRGB, upright, with the alpha channel
 */
export async function decodeToSrgb(picture, { depth, bitsPerSample }, colours) {
  const has16Bits = depth === 'ushort';
  const space = colours === 'CMYK' ? 'cmyk' : has16Bits ? 'rgb16' : 'srgb';
  if (colours === 'CMYK') picture.pipelineColourspace(space);
  const raw = picture
    .autoOrient()
    .toColourspace(space)
    .raw({ depth: has16Bits ? 'ushort' : 'uchar' });
  const { data, info } = await raw.toBuffer({ resolveWithObject: true });
  const { width, height, channels } = info;
  const samples = has16Bits ? new Uint16Array(data.buffer, data.byteOffset, data.length / 2) : data;
  const max = has16Bits ? (2 ** bitsPerSample - 1) * 2 ** (16 - bitsPerSample) : 255; // libvips shifts 10 and 12 bits to the left
  if (colours === 'CMYK')
    return { data: inksToRgb(samples, channels, max), info: { width, height, channels: channels - 1 } };
  return { data: lightToRgb(samples, channels, max, colours), info: { width, height, channels } };
}

// Both work in place: what they write never overtakes what is still to be read.
const bytesOf = (samples, length) => new Uint8Array(samples.buffer, samples.byteOffset, length);

/** As browsers do: each ink takes its share of one colour, and black of all. Alpha may follow the inks. */
function inksToRgb(samples, channels, max) {
  const result = bytesOf(samples, (samples.length / channels) * (channels - 1));
  for (let from = 0, to = 0; from < samples.length; from += channels, to += channels - 1) {
    const black = 255 * (1 - samples[from + 3] / max);
    result[to] = Math.round((1 - samples[from] / max) * black);
    result[to + 1] = Math.round((1 - samples[from + 1] / max) * black);
    result[to + 2] = Math.round((1 - samples[from + 2] / max) * black);
    if (channels > 4) result[to + 3] = Math.round((samples[from + 4] / max) * 255);
  }
  return result;
}

/** @param {Colours} colours */
function lightToRgb(samples, channels, max, { primaries, transfer, peak }) {
  const light = Float32Array.from({ length: max + 1 }, (_, value) => transfer(value / max));
  const toSrgb = Uint8Array.from({ length: 65_536 }, (_, i) => Math.round(255 * encodeSrgb(i / 65_535)));
  const encode = (value) => toSrgb[value <= 0 ? 0 : value >= 1 ? 65_535 : Math.round(value * 65_535)];
  const [rr, gr, br, rg, gg, bg, rb, gb, bb] = matrixBetween(primaries, PRIMARIES[BT709]).flat();
  const scaleOf = peak && createToneMap(primaries, transfer, peak);
  const result = bytesOf(samples, samples.length);
  for (let i = 0; i < samples.length; i += channels) {
    const r = light[samples[i]];
    const g = light[samples[i + 1]];
    const b = light[samples[i + 2]];
    const scale = scaleOf ? scaleOf(r, g, b) : 1;
    if (channels === 4) result[i + 3] = Math.round((samples[i + 3] / max) * 255);
    result[i] = encode(scale * (rr * r + gr * g + br * b));
    result[i + 1] = encode(scale * (rg * r + gg * g + bg * b));
    result[i + 2] = encode(scale * (rb * r + gb * g + bb * b));
  }
  return result;
}

/**
 * From HDR to SDR by the curve that Chromium 156 uses, applied to the brightest of the three colours in BT.2020. White comes out at half
 * the light of SDR's white, and the peak as SDR's white. A picture that is no brighter than white stays as it is.
 * @returns the factor for the light of a pixel
 */
function createToneMap(primaries, transfer, peak) {
  const [rr, gr, br, rg, gg, bg, rb, gb, bb] = matrixBetween(primaries, PRIMARIES[BT2020]).flat();
  const top = peak / WHITE;
  const knee = 1 - Math.min(1, Math.max(0, Math.log(top) / Math.log(PEAK / WHITE))) / 2;
  // A quadratic Bézier curve from (1, knee) to (top, 1). Its middle lies 65 % of the way to where the line below the knee reaches 1.
  const middleX = 0.35 + 0.65 / knee;
  const middleY = 0.35 * knee + 0.65;
  const a = 1 - 2 * middleX + top;
  const b = middleX - 1;
  const curve = (x) => {
    const t = (Math.sqrt(b * b - a * (1 - x)) - b) / a;
    return knee * (1 - t) ** 2 + 2 * middleY * t * (1 - t) + t * t;
  };
  const factor = (x) => (x <= 1 || top <= 1 ? knee : x >= top ? 1 / x : curve(x) / x);
  // BT.2100's OOTF, from the scene to a display of 1000 nits, as a table, because a power takes longer than all else.
  const displays = Float32Array.from({ length: 65_536 }, (_, i) => (PEAK / WHITE) * (i / 65_535) ** 0.2);
  return (red, green, blue) => {
    const r = rr * red + gr * green + br * blue;
    const g = rg * red + gg * green + bg * blue;
    const b = rb * red + gb * green + bb * blue;
    const luminance = Math.max(0, 0.2627 * r + 0.678 * g + 0.0593 * b);
    const display = transfer === fromHlg ? displays[Math.round(luminance * 65_535)] : 1;
    return display * factor(display * Math.max(r, g, b));
  };
}

const encodeSrgb = (light) => (light <= 0.0031308 ? 12.92 * light : 1.055 * light ** (1 / 2.4) - 0.055);

/** From the light of one set of primaries to that of another, by Bradford's adaptation to the other white. */
function matrixBetween(from, to) {
  const bradford = [
    [0.8951, 0.2664, -0.1614],
    [-0.7502, 1.7135, 0.0367],
    [0.0389, -0.0685, 1.0296],
  ];
  const [source, target] = [from, to].map((primaries) => multiply(bradford, xyzOf(primaries[6], primaries[7])));
  const scales = bradford.map((_, i) => bradford.map((_, j) => (i === j ? target[i][0] / source[i][0] : 0)));
  const adaptation = multiply(invert(bradford), multiply(scales, bradford));
  return multiply(invert(xyzMatrix(to)), multiply(adaptation, xyzMatrix(from)));
}

/** From light to XYZ. */
function xyzMatrix([redX, redY, greenX, greenY, blueX, blueY, whiteX, whiteY]) {
  const columns = [xyzOf(redX, redY), xyzOf(greenX, greenY), xyzOf(blueX, blueY)];
  const matrix = [0, 1, 2].map((i) => columns.map((column) => column[i][0]));
  const amounts = multiply(invert(matrix), xyzOf(whiteX, whiteY)); // together they make white
  return matrix.map((row) => row.map((value, i) => value * amounts[i][0]));
}

/** XYZ of a chromaticity, as a column. It is not scaled to Y = 1, because XYZ’s own primaries have none. */
const xyzOf = (x, y) => [[x], [y], [1 - x - y]];

const multiply = (a, b) => a.map((row) => b[0].map((_, j) => row.reduce((sum, value, k) => sum + value * b[k][j], 0)));

function invert([[a, b, c], [d, e, f], [g, h, i]]) {
  const determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  const adjugate = [
    [e * i - f * h, c * h - b * i, b * f - c * e],
    [f * g - d * i, a * i - c * g, c * d - a * f],
    [d * h - e * g, b * g - a * h, a * e - b * d],
  ];
  return adjugate.map((row) => row.map((value) => value / determinant));
}
