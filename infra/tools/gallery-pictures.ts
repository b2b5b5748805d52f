/** Pictures of many kinds for `npm run gallery`: three photographs, and drawings where no photograph is free to ship. */
import { readFile } from 'node:fs/promises';
import sharp from 'sharp';

/** By kind; each makes a file of a picture. */
export const PICTURES: Record<string, () => Promise<Buffer>> = {
  portrait: () => render(640, 800, `${garden(640, 800)}${person(320, 330, 3.2, 0)}`),
  group: () => render(960, 640, group()),
  building: () => render(960, 640, building()),
  street: () => render(960, 640, street()),
  flower: () => render(960, 640, flower()),
  animal: () => readFile(new URL('../../api/page/example-cat.webp', import.meta.url)),
  text: () => render(720, 960, text()),
  'night sky': () => render(960, 640, nightSky()),
  drawing: () => render(960, 640, drawing()),
  product: () => render(960, 720, product()),
  'still life': () => readFile(new URL('../../assets/coffee.png', import.meta.url)),
  rocket: () => readFile(new URL('../../assets/rocket.webp', import.meta.url)),
};

const DEFINITIONS = `
  <filter id="blur"><feGaussianBlur stdDeviation="18"/></filter>
  <filter id="soft"><feGaussianBlur stdDeviation="5"/></filter>
  <filter id="grain"><feTurbulence type="fractalNoise" baseFrequency="0.9" numOctaves="2"/>
    <feColorMatrix values="0 0 0 0 0  0 0 0 0 0  0 0 0 0 0  0.6 0 0 0 -0.2"/><feComposite operator="in" in2="SourceGraphic"/></filter>
  <filter id="clouds"><feTurbulence type="fractalNoise" baseFrequency="0.006 0.014" numOctaves="4"/>
    <feColorMatrix values="0 0 0 0 1  0 0 0 0 1  0 0 0 0 1  2.2 0 0 0 -0.9"/><feComposite operator="in" in2="SourceGraphic"/></filter>
  <radialGradient id="skin" cx="0.4" cy="0.35"><stop stop-color="#f3cdb0"/><stop offset="1" stop-color="#c48a66"/></radialGradient>
  <linearGradient id="sky" x2="0" y2="1"><stop stop-color="#4f8fd0"/><stop offset="1" stop-color="#cfe3f2"/></linearGradient>
  <linearGradient id="night" x2="0" y2="1"><stop stop-color="#04060f"/><stop offset="1" stop-color="#1d2c4d"/></linearGradient>
  <linearGradient id="glass"><stop stop-color="#0d3b2a"/><stop offset="0.25" stop-color="#4fae84"/><stop offset="0.5" stop-color="#17543c"/>
    <stop offset="1" stop-color="#082418"/></linearGradient>`;

/** @param body SVG without its root */
function render(width: number, height: number, body: string): Promise<Buffer> {
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"><defs>${DEFINITIONS}</defs>${body}</svg>`;
  return sharp(Buffer.from(svg)).removeAlpha().png().toBuffer();
}

/** SVG of `count` things. */
const repeat = (count: number, draw: (i: number) => string) =>
  Array.from({ length: count }, (_, i) => draw(i)).join('');

/** Evenly spread numbers from 0 to 1, the same in each run. Different steps are independent. */
const spread = (i: number, step = 0.618_034) => (i * step) % 1;

const sky = (width: number, height: number) => `<rect width="${width}" height="${height}" fill="url(#sky)"/>
  <rect width="${width}" height="${height}" filter="url(#clouds)"/>`;

/** Leaves out of focus. */
const garden = (width: number, height: number) =>
  `<rect width="${width}" height="${height}" fill="#3f5f34"/><g filter="url(#blur)">${repeat(90, (i) => {
    const [x, y] = [spread(i) * width, spread(i, 0.754_878) * height];
    return `<circle cx="${x}" cy="${y}" r="${18 + 40 * spread(i, 0.57)}" fill="hsl(${70 + 60 * spread(i, 0.31)} 45% ${18 + 45 * spread(i, 0.83)}%)"/>`;
  })}</g>`;

/** Head and shoulders; the middle of the face is at (x, y), and 100·size pixels tall. */
function person(x: number, y: number, size: number, look: number): string {
  const coat = ['#27345a', '#7a2f35', '#40614a', '#8a7440', '#5a3d6b'][look % 5];
  const hair = ['#3a2418', '#191613', '#a8854d', '#6b6762', '#56301c'][look % 5];
  return `<g transform="translate(${x} ${y}) scale(${size})" fill="none" stroke-linecap="round">
    <path d="M-48 8C-62 -88 62 -88 48 8C54 48 40 60 34 64H-34C-40 60 -54 48 -48 8Z" fill="${hair}"/>
    <path d="M-20 40V74H20V40Z" fill="#b97f5e"/>
    <path d="M-104 170C-104 92 -66 82 -24 70Q0 92 24 70C66 82 104 92 104 170V260H-104Z" fill="${coat}"/>
    <path d="M-104 170C-104 92 -66 82 -24 70Q0 92 24 70C66 82 104 92 104 170V260H-104Z" filter="url(#grain)" fill="#000"/>
    <path d="M-24 70L0 118L24 70Q0 90 -24 70Z" fill="#eee8dc"/>
    <ellipse rx="37" ry="50" fill="url(#skin)"/>
    <path d="M-40 -8C-38 -62 38 -62 40 -8C24 -34 -10 -34 -40 -8Z" fill="${hair}"/>
    ${[-15, 15]
      .map(
        (
          eye,
        ) => `<ellipse cx="${eye}" cy="-3" rx="7" ry="4" fill="#fff"/><circle cx="${eye}" cy="-3" r="3.4" fill="#2b3a2c"/>
      <path d="M${eye - 9} -13q9 -6 18 0" stroke="${hair}" stroke-width="2.4"/>`,
      )
      .join('')}
    <path d="M-2 2L-6 16Q0 20 6 16" stroke="#9a6548" stroke-width="1.6"/>
    <path d="M-13 27Q0 36 13 27Q0 31 -13 27Z" fill="#a8443f" stroke="#8a3430"/></g>`;
}

const group = () =>
  `<rect width="960" height="640" fill="#8d5a45"/>${repeat(
    336,
    (
      i,
    ) => `<rect x="${(i % 16) * 64 - (Math.floor(i / 16) % 2) * 32}" y="${Math.floor(i / 16) * 32}" width="61" height="29"
    fill="hsl(14 34% ${34 + 10 * spread(i)}%)"/>`,
  )}${[0, 1, 2].map((i) => person(250 + 230 * i, 230 - 12 * (i % 2), 1.05, i)).join('')}${[3, 4].map((i) => person(365 + 230 * (i - 3), 360, 1.25, i)).join('')}`;

function building(): string {
  const windows = repeat(24, (i) => {
    const [x, y] = [185 + (i % 8) * 76, 190 + Math.floor(i / 8) * 95];
    return `<rect x="${x}" y="${y}" width="40" height="62" fill="#2b3b4c" stroke="#efe7d6" stroke-width="5"/>
      <path d="M${x + 20} ${y}v62M${x} ${y + 30}h40" stroke="#efe7d6" stroke-width="3"/><path d="M${x - 6} ${y + 68}h52" stroke="#8e7f62" stroke-width="6"/>`;
  });
  return `${sky(960, 640)}<path d="M140 150L480 60L820 150Z" fill="#7c4034"/><rect x="150" y="150" width="660" height="350" fill="#d9c59c"/>
    <rect x="150" y="150" width="660" height="350" filter="url(#grain)"/>${windows}<rect x="448" y="396" width="64" height="104" fill="#4b2e20"/>
    <rect y="490" width="960" height="150" fill="#5c7f3c"/><rect y="490" width="960" height="150" filter="url(#grain)"/>
    <path d="M452 500H508L640 640H320Z" fill="#b9ab90"/>${[70, 880]
      .map(
        (x) => `<rect x="${x - 9}" y="330" width="18" height="180" fill="#4a3420"/>
      ${repeat(60, (i) => `<circle cx="${x - 60 + 120 * spread(i)}" cy="${200 + 190 * spread(i, 0.754_878)}" r="22" fill="hsl(${95 + 20 * spread(i, 0.3)} 40% ${18 + 18 * spread(i, 0.8)}%)"/>`)}`,
      )
      .join('')}`;
}

/** A street in one-point perspective, which vanishes at (480, 300). */
function street(): string {
  const at = (x: number, y: number, z: number) => `${480 + (480 * x) / z} ${300 + (480 * y) / z}`;
  const houses = repeat(12, (i) => {
    const far = 6 - Math.floor(i / 2);
    const [side, near] = [i % 2 ? 1 : -1, 0.75 + far * 0.9];
    const [x, top, back] = [0.95 * side, -1.3 - 0.5 * spread(i), near + 0.9];
    const windows = repeat(9, (j) => {
      const [z, y] = [near + 0.12 + 0.26 * (j % 3), top + 0.2 + 0.45 * Math.floor(j / 3)];
      return `<path d="M${at(x, y, z)}L${at(x, y, z + 0.15)}L${at(x, y + 0.28, z + 0.15)}L${at(x, y + 0.28, z)}Z" fill="#26303c" stroke="#e8dfcf" stroke-width="2"/>`;
    });
    return `<path d="M${at(x, top, near)}L${at(x, top, back)}L${at(x, 0.5, back)}L${at(x, 0.5, near)}Z" fill="hsl(${20 + 25 * spread(i, 0.7)} 34% ${44 + 16 * spread(i, 0.4)}%)"/>${windows}`;
  });
  const lamps = repeat(8, (i) => {
    const [x, z] = [(i % 2 ? 1 : -1) * 0.66, 3.4 - 0.75 * Math.floor(i / 2)];
    return `<path d="M${at(x, 0.5, z)}L${at(x, -0.5, z)}" stroke="#20242a" stroke-width="${8 / z}"/><circle cx="${480 + (480 * x) / z}" cy="${300 - 240 / z}" r="${14 / z}" fill="#ffe7ad"/>`;
  });
  return `${sky(960, 640)}<path d="M${at(0, 0.5, 99)}L${at(-3, 0.5, 0.7)}L${at(3, 0.5, 0.7)}Z" fill="#8b8780"/>
    <path d="M${at(0, 0.5, 99)}L${at(-0.55, 0.5, 0.7)}L${at(0.55, 0.5, 0.7)}Z" fill="#3d3f44"/><rect y="300" width="960" height="340" filter="url(#grain)"/>
    ${repeat(9, (i) => `<path d="M${at(-0.012, 0.5, 6 - 0.6 * i)}L${at(0.012, 0.5, 6 - 0.6 * i)}L${at(0.012, 0.5, 5.7 - 0.6 * i)}L${at(-0.012, 0.5, 5.7 - 0.6 * i)}Z" fill="#eee"/>`)}
    ${houses}${lamps}<g transform="translate(560 420)"><rect y="24" width="130" height="52" rx="12" fill="#b3262e"/>
    <path d="M18 26L34 -8H98L114 26Z" fill="#7d1a20"/><path d="M28 22L40 -2H92L104 22Z" fill="#9fc0d6"/>
    <rect x="8" y="66" width="24" height="24" rx="6" fill="#111"/><rect x="98" y="66" width="24" height="24" rx="6" fill="#111"/></g>`;
}

const flower =
  () => `${garden(960, 640)}<path d="M520 640Q490 470 480 300" stroke="#4f7d2c" stroke-width="16" fill="none"/>
  <path d="M505 560Q610 470 690 500Q620 590 510 590Z" fill="#5d8f36"/>${repeat(
    32,
    (i) => `<g transform="translate(480 270) rotate(${i * 22.5 + (i > 15 ? 11 : 0)}) scale(${i > 15 ? 0.8 : 1})">
      <path d="M0 -34C-46 -110 -26 -190 0 -204C26 -190 46 -110 0 -34Z" fill="hsl(${330 + 14 * spread(i)} 74% ${i > 15 ? 66 : 54}%)" stroke="#9c2f68"/>
      ${repeat(5, (j) => `<path d="M0 -60Q${(j - 2) * 12} -120 ${(j - 2) * 6} -185" stroke="#fff5" fill="none"/>`)}</g>`,
  )}<circle cx="480" cy="270" r="52" fill="#c98a12"/>${repeat(260, (i) => {
    const [radius, angle] = [52 * Math.sqrt(i / 260), i * 2.399_963];
    return `<circle cx="${480 + radius * Math.cos(angle)}" cy="${270 + radius * Math.sin(angle)}" r="3" fill="hsl(${40 - 18 * (1 - i / 260)} 90% ${32 + 26 * spread(i)}%)"/>`;
  })}`;

/** Lines of letters, drawn as strokes: a bare machine has no fonts. */
function text(): string {
  const line = (y: number, length: number, size: number) =>
    repeat(Math.floor(length / size), (i) => {
      const k = i + y;
      if (spread(k, 0.37) < 0.17) return '';
      const x = 80 + i * size;
      const [h, w] = [size * (spread(k) < 0.3 ? 1.5 : 1), size * 0.6];
      return `<path d="M${x} ${y}v${-h}${spread(k, 0.71) < 0.5 ? `q${w} 0 ${w} ${h}` : `M${x} ${y}h${w}M${x} ${y - size / 2}h${w * 0.8}`}" stroke-width="${size / 6}"/>`;
    });
  return `<rect width="720" height="960" fill="#fbfaf6"/><g stroke="#1c1b1a" fill="none">${line(120, 420, 22)}${repeat(
    33,
    (i) => line(180 + 22 * i, i % 8 === 7 ? 240 : 560, 9),
  )}</g>`;
}

const nightSky = () => `<rect width="960" height="640" fill="url(#night)"/>
  <path d="M-50 560Q400 420 1000 40" stroke="#8fa0c8" stroke-width="70" opacity="0.28" filter="url(#blur)" fill="none"/>${repeat(
    900,
    (
      i,
    ) => `<circle cx="${960 * spread(i)}" cy="${600 * spread(i, 0.754_878)}" r="${0.5 + 1.8 * spread(i, 0.57) ** 9}" fill="hsl(${210 + 60 * spread(i, 0.3)} 60% 92%)"
      opacity="${0.35 + 0.65 * spread(i, 0.83)}"/>`,
  )}<path d="M0 560L140 500L260 548L420 470L600 560L760 510L960 570V640H0Z" fill="#05070c"/>`;

const drawing =
  () => `<rect width="960" height="640" fill="#f7f5ef"/><g stroke="#2a2a2a" stroke-width="4" fill="none" stroke-linecap="round">
  <path d="M300 500V300L450 180L604 298V500ZM270 324L450 178L632 322M420 500V400H486V500M336 340h50v50h-50zM361 340v50M520 340h50v50h-50zM545 340v50M540 240V170H572V268"/>
  <path d="M20 504Q260 486 480 502T940 500M760 500Q770 400 752 320M790 500Q782 400 800 320"/>
  ${repeat(14, (i) => `<path d="M${775 + 70 * Math.cos(i * 0.45)} ${250 + 62 * Math.sin(i * 0.45)}q22 -30 40 6"/>`)}
  <circle cx="140" cy="130" r="52"/>${repeat(12, (i) => `<path d="M${140 + 66 * Math.cos(i * 0.524)} ${130 + 66 * Math.sin(i * 0.524)}L${140 + 92 * Math.cos(i * 0.524)} ${130 + 92 * Math.sin(i * 0.524)}"/>`)}
  <g stroke-width="2">${repeat(40, (i) => `<path d="M${30 + 23 * i} ${520 + 60 * spread(i)}q4 -22 8 0q6 -16 10 2"/>`)}
  ${repeat(12, (i) => `<path d="M${460 + 14 * i} ${192 + 11 * i}l-40 ${86 - 4 * i}"/>`)}</g></g>`;

const product =
  () => `<rect width="960" height="720" fill="#fdfdfd"/><ellipse cx="490" cy="640" rx="150" ry="22" fill="#0006" filter="url(#soft)"/>
  <path d="M452 90H508V220C508 260 580 280 580 340V620Q580 640 560 640H400Q380 640 380 620V340C380 280 452 260 452 220Z" fill="url(#glass)"/>
  <rect x="446" y="70" width="68" height="60" rx="6" fill="#b08a3c"/><path d="M380 400H580V560H380Z" fill="#f2ead6"/>
  <path d="M400 430H560M400 444H560M430 520H530" stroke="#7a2f35" stroke-width="4"/><circle cx="480" cy="482" r="24" fill="#7a2f35"/>
  <path d="M398 350V610" stroke="#fff8" stroke-width="8" stroke-linecap="round"/>`;
