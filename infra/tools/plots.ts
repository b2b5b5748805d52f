/** Plots for docs/models/sampling.md, drawn from the functions that sampling uses. */
import { type Discretization, noiseLevels } from '../../core/discretization.ts';
import { type Guider, guidanceScales } from '../../core/guider.ts';

const STEPS = 25;
/** Steps of those that were made for few. */
const FEW_STEPS: Record<string, number> = { AlignYourStepsDiscretization: 10, LCMDiscretization: 8 };
const FRAMES = 25;

/** By name, the settings to draw by the label of their line. */
type Choices = Record<string, Record<string, Record<string, number>>>;

const DISCRETIZATIONS: Choices = {
  EDMDiscretization: {
    'SVD’s preset: 0.002 to 700, rho 7': { sigma_min: 0.002, sigma_max: 700, rho: 7 },
    'named alone: 0.0292 to 14.6146, rho 3': { sigma_min: 0.0292, sigma_max: 14.6146, rho: 3 },
  },
  LegacyDDPMDiscretization: { 'the schedule of Stable Diffusion’s training': {} },
  AlignYourStepsDiscretization: { 'published for SVD': {} },
  LCMDiscretization: { 'the levels of AnimateLCM-SVD-xt': {} },
};

const GUIDERS: Choices = {
  LinearPredictionGuider: {
    'svd: 1 to 2.5': { min_guidance_scale: 1, max_cfg_scale: 2.5 },
    'svd_xt: 1.5 to 3': { min_guidance_scale: 1.5, max_cfg_scale: 3 },
    'named alone: 1 to 1.5': { min_guidance_scale: 1, max_cfg_scale: 1.5 },
  },
  VanillaCFG: { 'cfg_scale 5': { cfg_scale: 5 } },
  IdentityGuider: { 'the conditional branch alone': {} },
};

/** @returns SVGs by name: sigma by step for each discretization, without the final 0, and scale by frame for each guider */
export function plots(): Record<string, string> {
  const sigmas = Object.entries(DISCRETIZATIONS).map(([discretization, choices]) => {
    const steps = FEW_STEPS[discretization] ?? STEPS;
    const values = (settings: object) => noiseLevels(steps, { discretization, ...settings } as Discretization);
    const lines = Object.entries(choices).map(([label, one]) => ({ label, values: values(one).slice(0, -1) }));
    const title = `${discretization}: sigma by step, ${steps} steps`;
    return [discretization, plot(title, lines, [0.001, 0.01, 0.1, 1, 10, 100, 1000], Math.log10)];
  });
  const scales = Object.entries(GUIDERS).map(([guider, choices]) => {
    const values = (settings: object) => guidanceScales(FRAMES, { guider, ...settings } as Guider);
    const lines = Object.entries(choices).map(([label, one]) => ({ label, values: values(one) }));
    const title = `${guider}: guidance scale by frame, ${FRAMES} frames`;
    return [guider, plot(title, lines, [0, 1, 2, 3, 4, 5], (value) => value)];
  });
  return Object.fromEntries([...sigmas, ...scales]);
}

const [WIDTH, HEIGHT] = [640, 360];
const AREA = { left: 56, right: 624, top: 44, bottom: 320 };
const COLORS = ['#2b7de9', '#d9622b', '#2a9453']; // to be seen on white and on black

/**
 * Draws lines over the index of their values.
 * @param ticks labels of the vertical axis, which ends at the first and the last
 * @param scale from a value to its height, in any unit
 */
function plot(
  title: string,
  lines: { label: string; values: number[] }[],
  ticks: number[],
  scale: (value: number) => number,
): string {
  const [low, high] = [scale(ticks[0]!), scale(ticks.at(-1)!)];
  const y = (value: number) => AREA.bottom - ((scale(value) - low) / (high - low)) * (AREA.bottom - AREA.top);
  const count = lines[0]!.values.length;
  const x = (index: number) => AREA.left + (index / (count - 1)) * (AREA.right - AREA.left);
  const round = (value: number) => value.toFixed(1);

  const grid = ticks.map(
    (tick) =>
      `<path class="grid" d="M${AREA.left} ${round(y(tick))}H${AREA.right}"/><text x="${AREA.left - 8}" y="${round(y(tick) + 4)}" text-anchor="end">${tick}</text>`,
  );
  const indices = [0, 1, 2, 3, 4]
    .map((quarter) => Math.round((quarter * (count - 1)) / 4))
    .map((index) => `<text x="${round(x(index))}" y="${AREA.bottom + 20}" text-anchor="middle">${index}</text>`);
  const curves = lines.map(({ values, label }, i) => {
    const points = values.map((value, index) => `${round(x(index))},${round(y(value))}`);
    const dots = points.map((point) => `<circle cx="${point.replace(',', '" cy="')}" r="2.5" fill="${COLORS[i]}"/>`);
    const key = `<text x="${AREA.right}" y="${AREA.top + 16 + 18 * i}" text-anchor="end" style="fill:${COLORS[i]}">${label}</text>`;
    return `<polyline points="${points.join(' ')}" fill="none" stroke="${COLORS[i]}" stroke-width="1.5"/>${dots.join('')}${key}`;
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
