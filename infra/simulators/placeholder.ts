/** A placeholder for a picture that no image provider is paid for: a drawn landscape with the prompt. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import opentype from 'opentype.js';
import sharp from 'sharp';

const fontFile = createRequire(import.meta.url).resolve('@fontsource/inter/files/inter-latin-400-normal.woff');
const bytes = readFileSync(fontFile);
const font = opentype.parse(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
delete font.tables.gsub; // opentype.js does not support Inter's ligatures

/**
 * @param prompt determines the landscape
 * @param variant 1–4, determines its light
 * @returns a PNG of width×height pixels
 */
export async function placeholder(prompt: string, variant: number, width: number, height: number): Promise<Buffer> {
  const random = createRandom(`${variant}\n${prompt}`);
  const hue = createRandom(prompt)() * 360 + 35 * (variant - 1);
  const hsl = (shift: number, saturation: number, lightness: number) =>
    `hsl(${Math.round((hue + shift) % 360)} ${saturation}% ${lightness}%)`;
  const sunX = width * (0.2 + 0.6 * random());
  const sunY = height * (0.25 + 0.2 * random());
  const ridges = [0, 1, 2, 3].map((depth) => {
    const path = ridge(random, depth, width, height);
    return `<path d="${path}" fill="${hsl(20 + 12 * depth, 38, 52 - 11 * depth)}"/>`;
  });
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}">
    <defs>
      <linearGradient id="sky" x2="0" y2="1"><stop offset="0" stop-color="${hsl(0, 45, 34)}"/><stop offset=".7" stop-color="${hsl(40, 70, 80)}"/></linearGradient>
      <radialGradient id="glow"><stop offset="0" stop-color="#fff" stop-opacity=".9"/><stop offset=".25" stop-color="#fff" stop-opacity=".55"/><stop offset="1" stop-color="#fff" stop-opacity="0"/></radialGradient>
    </defs>
    <rect width="${width}" height="${height}" fill="url(#sky)"/>
    <circle cx="${sunX}" cy="${sunY}" r="${height * 0.33}" fill="url(#glow)"/>
    <circle cx="${sunX}" cy="${sunY}" r="${height * 0.07}" fill="#fff"/>
    ${ridges.join('')}
    ${label(prompt, width, height).join('')}
  </svg>`;
  return sharp(Buffer.from(svg)).png({ compressionLevel: 2 }).toBuffer();
}

/** A generator of numbers from 0 to 1 that depends on the text alone. */
function createRandom(text: string): () => number {
  const hash = createHash('sha256').update(text).digest();
  let i = 0;
  return () => hash[i++ % hash.length]! / 255;
}

/** The outline of a range of hills. @param depth 0–3, nearer hills are lower */
function ridge(random: () => number, depth: number, width: number, height: number): string {
  const level = height * (0.5 + 0.13 * depth);
  const rise = height * (0.13 - 0.02 * depth);
  const [a, b, c] = [random() * 6.3, random() * 6.3, random() * 6.3] as const;
  const points: string[] = [];
  for (let x = 0; x <= width; x += 8) {
    const u = x / width;
    const wave =
      0.5 * Math.sin(u * (3 + depth) + a) +
      0.3 * Math.sin(u * (9 + 2 * depth) + b) +
      0.12 * Math.sin(u * (31 + 5 * depth) + c);
    points.push(`L${x} ${(level - rise * wave).toFixed(1)}`);
  }
  return `M0 ${height}${points.join('')}L${width} ${height}Z`;
}

const MAX_LINES = 3;

/** The lines of text as outlines, because a server may have no fonts. It is above the lowest sixth, which a camera move may crop. */
function label(prompt: string, width: number, height: number): string[] {
  const size = Math.min(width, height) / 18;
  const text = [...`placeholder for: ${prompt}`.replaceAll(/\s/g, ' ')]
    .map((character) => (font.charToGlyphIndex(character) ? character : '?'))
    .join('');
  const lines = [''];
  // Longer words are broken: 16 of the widest letter fit.
  for (const word of text.match(/\S{1,16}/g)!) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (lines.at(-1) && font.getAdvanceWidth(longer, size) > width * 0.74) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  if (lines.length > MAX_LINES) lines.splice(MAX_LINES - 1, Infinity, `${lines[MAX_LINES - 1]} …`);
  return lines.map((line, i) => {
    const x = (width - font.getAdvanceWidth(line, size)) / 2;
    const y = height * 0.8 - (lines.length - 1 - i) * size * 1.3;
    const outline = font.getPath(line, 0, 0, font.unitsPerEm).toPathData(0); // of fractions opentype.js makes NaN at times
    return `<path transform="translate(${x} ${y}) scale(${size / font.unitsPerEm})" d="${outline}" fill="#fff"/>`;
  });
}
