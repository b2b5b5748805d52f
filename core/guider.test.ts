import { expect, test } from 'vitest';
import { noiseLevels } from './discretization.ts';
import { withGuidance } from './guider.ts';

test('the unconditional branch is not run if no frame needs it', async () => {
  const asked: boolean[] = [];
  const denoise = withGuidance(
    async (x, _sigma, conditional) => {
      asked.push(conditional);
      return x.map(() => (conditional ? 3 : 1));
    },
    [1, 1],
  );
  expect(await denoise(new Float32Array(4), 1, 0)).toEqual(new Float32Array([3, 3, 3, 3]));
  expect(asked).toEqual([true]);
});

test('guidance has an interval of noise levels: its upper bound is inside, its lower one outside', async () => {
  const guided: number[] = [];
  const denoise = withGuidance(
    async (x, sigma, conditional) => {
      if (!conditional) guided.push(sigma);
      return x;
    },
    [1, 2],
    { guidance_sigma_min: 0.173, guidance_sigma_max: 4.248 },
  );
  for (const sigma of noiseLevels(10, { discretization: 'AlignYourStepsDiscretization' }).slice(0, -1))
    await denoise(new Float32Array(2), sigma, 0);
  expect(guided).toEqual([4.248, 1.789, 0.981, 0.403]);
});
