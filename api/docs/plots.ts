/** What the documentation shows of sampling: drawn by the very functions that sample. */
import { type Discretization, noiseLevels } from '../../core/discretization.ts';
import { type Guider, guidanceScales } from '../../core/guider.ts';

interface Line {
  label: string;
  values: number[];
}

const STEPS = 25;
const FRAMES = 25;

const DISCRETIZATIONS: Record<string, { label: string; choice: Discretization }[]> = {
  EDMDiscretization: [
    {
      label: 'SVD’s preset: 0.002 to 700, rho 7',
      choice: { discretization: 'EDMDiscretization', sigma_min: 0.002, sigma_max: 700, rho: 7 },
    },
    {
      label: 'named alone: 0.0292 to 14.6146, rho 3',
      choice: { discretization: 'EDMDiscretization', sigma_min: 0.0292, sigma_max: 14.6146, rho: 3 },
    },
  ],
  LegacyDDPMDiscretization: [
    { label: 'the schedule of Stable Diffusion’s training', choice: { discretization: 'LegacyDDPMDiscretization' } },
  ],
};

const GUIDERS: Record<string, { label: string; choice: Guider }[]> = {
  LinearPredictionGuider: [
    { label: 'svd: 1 to 2.5', choice: { guider: 'LinearPredictionGuider', min_guidance_scale: 1, max_cfg_scale: 2.5 } },
    {
      label: 'svd_xt: 1.5 to 3',
      choice: { guider: 'LinearPredictionGuider', min_guidance_scale: 1.5, max_cfg_scale: 3 },
    },
    {
      label: 'named alone: 1 to 1.5',
      choice: { guider: 'LinearPredictionGuider', min_guidance_scale: 1, max_cfg_scale: 1.5 },
    },
  ],
  VanillaCFG: [{ label: 'cfg_scale 5', choice: { guider: 'VanillaCFG', cfg_scale: 5 } }],
  IdentityGuider: [{ label: 'the conditional branch alone', choice: { guider: 'IdentityGuider' } }],
};

/** @returns an SVG for each discretization (sigma by step, without the final 0) and each guider (scale by frame), by name */
export function plots(): Record<string, string> {
  const drawn: Record<string, string> = {};
  for (const [name, kinds] of Object.entries(DISCRETIZATIONS)) {
    const lines = kinds.map(({ label, choice }) => ({ label, values: noiseLevels(STEPS, choice).slice(0, -1) }));
    drawn[name] = plot({
      title: `${name}: sigma by step, ${STEPS} steps`,
      lines,
      ticks: [0.001, 0.01, 0.1, 1, 10, 100, 1000],
      logarithmic: true,
    });
  }
  for (const [name, kinds] of Object.entries(GUIDERS)) {
    const lines = kinds.map(({ label, choice }) => ({ label, values: guidanceScales(FRAMES, choice) }));
    drawn[name] = plot({
      title: `${name}: guidance scale by frame, ${FRAMES} frames`,
      lines,
      ticks: [0, 1, 2, 3, 4, 5],
      logarithmic: false,
    });
  }
  return drawn;
}

const [WIDTH, HEIGHT] = [640, 360];
const AREA = { left: 56, right: 624, top: 44, bottom: 320 };
const COLOURS = ['#2b7de9', '#d9622b', '#2a9453']; // to be seen on white and on black

/** Lines over the index of their values; the first and the last tick are the ends of the vertical axis. */
function plot({
  title,
  lines,
  ticks,
  logarithmic,
}: {
  title: string;
  lines: Line[];
  ticks: number[];
  logarithmic: boolean;
}): string {
  const height = (value: number) => (logarithmic ? Math.log10(value) : value);
  const [low, high] = [height(ticks[0]!), height(ticks.at(-1)!)];
  const y = (value: number) => AREA.bottom - ((height(value) - low) / (high - low)) * (AREA.bottom - AREA.top);
  const count = lines[0]!.values.length;
  const x = (index: number) => AREA.left + (index / (count - 1)) * (AREA.right - AREA.left);
  const at = (value: number) => value.toFixed(1);

  const grid = ticks.map(
    (tick) =>
      `<path class="grid" d="M${AREA.left} ${at(y(tick))}H${AREA.right}"/><text x="${AREA.left - 8}" y="${at(y(tick) + 4)}" text-anchor="end">${tick}</text>`,
  );
  const indices = [0, 6, 12, 18, 24].map(
    (index) => `<text x="${at(x(index))}" y="${AREA.bottom + 20}" text-anchor="middle">${index}</text>`,
  );
  const curves = lines.map(({ values, label }, i) => {
    const points = values.map((value, index) => `${at(x(index))},${at(y(value))}`);
    const dots = points.map((point) => `<circle cx="${point.replace(',', '" cy="')}" r="2.5" fill="${COLOURS[i]}"/>`);
    const key = `<text x="${AREA.right}" y="${AREA.top + 16 + 18 * i}" text-anchor="end" style="fill:${COLOURS[i]}">${label}</text>`;
    return `<polyline points="${points.join(' ')}" fill="none" stroke="${COLOURS[i]}" stroke-width="1.5"/>${dots.join('')}${key}`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img">
<title>${title}</title>
<style>text{font:13px system-ui,sans-serif;fill:#444}.title{font-weight:600}.grid{stroke:#8884;fill:none}@media(prefers-color-scheme:dark){text{fill:#bbb}}</style>
<text class="title" x="${AREA.left}" y="24">${title}</text>
${grid.join('\n')}
${indices.join('\n')}
${curves.join('\n')}
</svg>
`;
}
