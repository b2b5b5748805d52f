import { expect, test } from 'vitest';
import { PARAMETER_LABELS } from './parameter-labels.ts';
import { requestProperties } from './parameter-schema.ts';

test('every parameter has a label, a group and a position', () => {
  const properties = requestProperties({ model: 'camera', limits: { maxFrames: 100, maxFps: 120 }, bridge: undefined });
  expect(Object.keys(PARAMETER_LABELS).toSorted()).toEqual(Object.keys(properties).toSorted());
  expect(properties.num_cols).toMatchObject({ title: 'Videos', 'x-group': 'Clip', 'x-presets': { 1: 1, 2: 2, 4: 4 } });
  const positions = Object.values(properties).map((schema) => schema['x-order']);
  expect(positions.toSorted((a, b) => a - b)).toEqual(positions.map((_, i) => i));
});
