/**
 * How near each part of a still is, by rules of thumb and without weights: near things tend to be sharp, low in the picture, central, and
 * unlike the picture's border. A guided filter (He, Sun and Tang 2013, doi:10.1109/TPAMI.2012.213) follows the picture's edges.
 */
import type { Still } from './model.ts';

/** Pixels of a cell's side: depth is estimated on a coarse grid. */
const CELL = 8;

export interface Depth {
  /** of each pixel of the still, −½ (far) to ½ (near), times how certain the estimate is */
  pixels: Float32Array;
  /** the largest difference of neighbouring pixels, across and down */
  steepest: [across: number, down: number];
  /** the centre of what is near, 0–1 from left and top */
  subject: [x: number, y: number];
  /** of the subject's centre, in the unit of `pixels` */
  subjectDepth: number;
  /** 0–1: low where the cues say little, as in a page of text or a night sky */
  certainty: number;
}

/** A grid of numbers. */
interface Plane {
  values: Float64Array;
  width: number;
  height: number;
}

/** @param still rgb24 of any size, also a single pixel */
export function estimateDepth(still: Still): Depth {
  const { light, detail, contrast, colourfulness, slant } = measureCells(still);
  const { width, height } = light;
  const texture = normalize(blur(detail, width / 40), 0.97);
  const unlike = normalize(blur(contrast, width / 40), 0.97);
  const cues = map(light, (i) => 0.35 * texture.values[i]! + 0.3 * unlike.values[i]!);
  const certainty = certaintyOf({ detail, contrast, cues, colourfulness, slant });
  const prior = map(light, (i) => {
    const [x, y] = [((i % width) + 0.5) / width, (Math.floor(i / width) + 0.5) / height];
    return 0.14 * y + 0.2 * (1 - Math.min(1, Math.hypot(1.2 * (x - 0.5), y - 0.5)));
  });
  const raw = map(light, (i) => cues.values[i]! + prior.values[i]!);
  const edges = stretch(guidedFilter(light, raw, width / 24, 1e-3));
  // Near things grow a little, so that what stretches is behind them. Upright things stay straight if depth hardly varies along them.
  const soft = (plane: Plane) => blur(plane, width / 24, height / 5);
  const smooth = stretch(soft(soft(dilate(edges))));

  let [sum, sumX, sumY] = [1e-9, 0.5e-9, 0.5e-9];
  for (const [i, value] of smooth.values.entries()) {
    const weight = Math.max(0, value - 0.6) * (0.05 + cues.values[i]!);
    sum += weight;
    sumX += (weight * ((i % width) + 0.5)) / width;
    sumY += (weight * (Math.floor(i / width) + 0.5)) / height;
  }
  const subject: [number, number] = [sumX / sum, sumY / sum];
  const centred = map(smooth, (i) => (smooth.values[i]! - 0.5) * certainty);
  const pixels = enlarge(centred, still.width, still.height);
  const subjectDepth =
    pixels[Math.floor(subject[1] * still.height) * still.width + Math.floor(subject[0] * still.width)]!;
  return { pixels, steepest: steepest(centred), subject, subjectDepth, certainty };
}

interface Cues extends Omit<ReturnType<typeof measureCells>, 'light'> {
  cues: Plane;
}

/**
 * 0.05–1. The cues say little if they hardly vary, or if the whole picture is equally detailed: stars, leaves, a pattern. The same holds
 * for hardly any contrast to the border (a night sky), and for no colour (text, line art). Walls and lines of text have horizontal and
 * vertical edges: bent ones would disturb.
 */
function certaintyOf({ detail, contrast, cues, colourfulness, slant }: Cues): number {
  const coarse = blur(detail, detail.width / 16);
  const evenness = (quantile(coarse, 0.1) + 1e-6) / (quantile(coarse, 0.9) + 1e-6);
  const share = (value: number) => Math.min(1, Math.max(0, value));
  const varied = share(deviation(cues) / 0.12);
  const structured = share((0.8 - evenness) / 0.4);
  const distinct = share((quantile(contrast, 0.97) - 0.15) / 0.2);
  const coloured = share(0.4 + colourfulness / 0.1);
  const irregular = share((slant - 0.25) / 0.25);
  return Math.max(0.05, varied * structured * distinct * coloured * irregular);
}

/**
 * By cell: mean luminance (BT.709, 0–1), mean luminance gradient, and colour distance from the nearest of the four borders' means. Of the
 * picture: the mean difference of a pixel's largest and smallest channel, 0–1, and how much of the gradient is slanted: 0 if all edges are
 * horizontal or vertical, 0.64 if they have all directions.
 */
function measureCells({ data, width, height }: Still) {
  const [w, h] = [Math.ceil(width / CELL), Math.ceil(height / CELL)];
  const plane = (): Plane => ({ values: new Float64Array(w * h), width: w, height: h });
  const [light, detail, contrast, red, green, blue] = [plane(), plane(), plane(), plane(), plane(), plane()];
  const luminanceOf = (y: number) => {
    const row = new Float32Array(width + 1);
    for (let x = 0, i = y * width * 3; x < width; x++, i += 3)
      row[x] = (0.2126 * data[i]! + 0.7152 * data[i + 1]! + 0.0722 * data[i + 2]!) / 255;
    row[width] = row[width - 1]!;
    return row;
  };
  let [colours, slanted, steep] = [0, 0, 1e-9];
  let below = luminanceOf(0);
  for (let y = 0; y < height; y++) {
    const here = below;
    below = luminanceOf(Math.min(y + 1, height - 1));
    const rows = Math.min(CELL, height - CELL * Math.floor(y / CELL));
    for (let column = 0; column < w; column++) {
      const end = Math.min((column + 1) * CELL, width);
      let [l, d, r, g, b] = [0, 0, 0, 0, 0];
      for (let x = column * CELL, i = (y * width + x) * 3; x < end; x++, i += 3) {
        const dx = here[x + 1]! - here[x]!;
        const dy = below[x]! - here[x]!;
        l += here[x]!;
        d += Math.abs(dx) + Math.abs(dy);
        slanted += Math.abs(dx * dy);
        steep += dx * dx + dy * dy;
        r += data[i]!;
        g += data[i + 1]!;
        b += data[i + 2]!;
        colours += Math.max(data[i]!, data[i + 1]!, data[i + 2]!) - Math.min(data[i]!, data[i + 1]!, data[i + 2]!);
      }
      const cell = Math.floor(y / CELL) * w + column;
      const share = 1 / (rows * (end - column * CELL));
      light.values[cell]! += l * share;
      detail.values[cell]! += d * share;
      red.values[cell]! += (r * share) / 255;
      green.values[cell]! += (g * share) / 255;
      blue.values[cell]! += (b * share) / 255;
    }
  }
  contrastTo(contrast, [red, green, blue]);
  return { light, detail, contrast, colourfulness: colours / (255 * width * height), slant: (2 * slanted) / steep };
}

/** Sets each cell to its colour's distance from the nearest of the mean colours of the four borders. */
function contrastTo({ values, width, height }: Plane, [red, green, blue]: [red: Plane, green: Plane, blue: Plane]) {
  const border = Math.ceil(0.06 * Math.min(width, height));
  const sides = [
    [0, 0, width, border],
    [0, height - border, width, height],
    [0, 0, border, height],
    [width - border, 0, width, height],
  ] as const;
  const means = sides.map(([left, top, right, bottom]) => {
    let [r, g, b] = [0, 0, 0];
    for (let y = top; y < bottom; y++)
      for (let i = y * width + left; i < y * width + right; i++) {
        r += red.values[i]!;
        g += green.values[i]!;
        b += blue.values[i]!;
      }
    const count = (right - left) * (bottom - top);
    return [r / count, g / count, b / count] as const;
  });
  values.fill(Number.POSITIVE_INFINITY);
  for (const [r, g, b] of means)
    for (let i = 0; i < values.length; i++) {
      const square = (red.values[i]! - r) ** 2 + (green.values[i]! - g) ** 2 + (blue.values[i]! - b) ** 2;
      values[i] = Math.min(values[i]!, Math.sqrt(square));
    }
}

const map = ({ values, width, height }: Plane, value: (i: number) => number): Plane => ({
  values: values.map((_, i) => value(i)),
  width,
  height,
});

/** The mean over a rectangle of 2·radius + 1 cells a side, where it lies within the plane. */
function blur(plane: Plane, radiusX: number, radiusY = radiusX): Plane {
  return blurRows(blurRows(plane, Math.max(1, Math.round(radiusX))), Math.max(1, Math.round(radiusY)));
}

/** Blurs along the rows, and transposes. */
function blurRows({ values, width, height }: Plane, radius: number): Plane {
  const result = new Float64Array(values.length);
  const sums = new Float64Array(width + 1); // of all cells before
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) sums[x + 1] = sums[x]! + values[y * width + x]!;
    for (let x = 0; x < width; x++) {
      const [from, to] = [Math.max(0, x - radius), Math.min(width, x + radius + 1)];
      result[x * height + y] = (sums[to]! - sums[from]!) / (to - from);
    }
  }
  return { values: result, width: height, height: width };
}

/** The largest of each cell and its eight neighbours. */
function dilate(plane: Plane): Plane {
  const { values, width, height } = plane;
  return map(plane, (i) => {
    const [x, y] = [i % width, Math.floor(i / width)];
    let most = values[i]!;
    for (let v = Math.max(0, y - 1); v <= Math.min(height - 1, y + 1); v++)
      for (let u = Math.max(0, x - 1); u <= Math.min(width - 1, x + 1); u++)
        most = Math.max(most, values[v * width + u]!);
    return most;
  });
}

function guidedFilter(guide: Plane, input: Plane, radius: number, epsilon: number): Plane {
  const [g, p] = [guide.values, input.values];
  const meanG = blur(guide, radius).values;
  const meanP = blur(input, radius).values;
  const meanGP = blur(
    map(guide, (i) => g[i]! * p[i]!),
    radius,
  ).values;
  const meanGG = blur(
    map(guide, (i) => g[i]! * g[i]!),
    radius,
  ).values;
  const slope = map(guide, (i) => (meanGP[i]! - meanG[i]! * meanP[i]!) / (meanGG[i]! - meanG[i]! ** 2 + epsilon));
  const base = map(guide, (i) => meanP[i]! - slope.values[i]! * meanG[i]!);
  const [a, b] = [blur(slope, radius).values, blur(base, radius).values];
  return map(guide, (i) => a[i]! * g[i]! + b[i]!);
}

const quantile = ({ values }: Plane, q: number) => values.slice().sort()[Math.round(q * (values.length - 1))]!;

/** Divided by a quantile, at most 1. */
function normalize(plane: Plane, q: number): Plane {
  const scale = quantile(plane, q) + 1e-3;
  return map(plane, (i) => Math.min(1, plane.values[i]! / scale));
}

/** From 0 to 1. */
function stretch(plane: Plane): Plane {
  const [low, high] = [quantile(plane, 0.02), quantile(plane, 0.98)];
  return map(plane, (i) =>
    high - low < 1e-6 ? 0.5 : Math.min(1, Math.max(0, (plane.values[i]! - low) / (high - low))),
  );
}

function deviation({ values }: Plane): number {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
}

/** The largest difference of neighbouring pixels, once each cell is enlarged: across and down. */
function steepest({ values, width }: Plane): [across: number, down: number] {
  let [across, down] = [0, 0];
  for (let i = 0; i < values.length; i++) {
    if (i % width > 0) across = Math.max(across, Math.abs(values[i]! - values[i - 1]!));
    if (i >= width) down = Math.max(down, Math.abs(values[i]! - values[i - width]!));
  }
  return [across / CELL, down / CELL];
}

/** Bilinear, CELL times as large. */
function enlarge({ values, width: w, height: h }: Plane, width: number, height: number): Float32Array {
  const result = new Float32Array(width * height);
  const row = new Float64Array(w + 1);
  const place = (i: number, cells: number) => Math.min(Math.max((i + 0.5) / CELL - 0.5, 0), cells - 1);
  const across = Float64Array.from({ length: width }, (_, x) => place(x, w));
  for (let y = 0; y < height; y++) {
    const down = place(y, h);
    const [top, bottom] = [Math.floor(down) * w, Math.min(Math.floor(down) + 1, h - 1) * w];
    for (let i = 0; i < w; i++) row[i] = values[top + i]! + (down % 1) * (values[bottom + i]! - values[top + i]!);
    row[w] = row[w - 1]!;
    for (let x = 0; x < width; x++) {
      const left = Math.floor(across[x]!);
      result[y * width + x] = row[left]! + (across[x]! - left) * (row[left + 1]! - row[left]!);
    }
  }
  return result;
}
