import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { plots } from './plots.ts';

const folder = new URL('../../docs/plots/', import.meta.url);

test('the plots in docs/plots are those that the code draws (npm run docs)', () => {
  const drawn = plots();
  expect(readdirSync(folder).sort()).toEqual(
    Object.keys(drawn)
      .map((name) => `${name}.svg`)
      .sort(),
  );
  for (const [name, svg] of Object.entries(drawn))
    expect(readFileSync(new URL(`${name}.svg`, folder), 'utf8'), name).toBe(svg);
});

test('a line has 25 points and begins at the highest sigma of SVD’s schedule', () => {
  const svg = plots().EDMDiscretization!;
  const lines = [...svg.matchAll(/<polyline points="([^"]+)"/g)].map(([, points]) => points!.split(' '));
  expect(lines.map((points) => points.length)).toEqual([25, 25]);
  const y = (sigma: number) => 320 - ((Math.log10(sigma) + 3) / 6) * (320 - 44);
  expect(lines[0]![0]).toBe(`56.0,${y(700).toFixed(1)}`);
  expect(lines[0]![24]).toBe(`624.0,${y(0.002).toFixed(1)}`);
});
