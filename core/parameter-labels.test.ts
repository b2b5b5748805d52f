import { expect, test } from 'vitest';
import { PARAMETER_LABELS } from './parameter-labels.ts';
import { requestProperties } from './parameter-schema.ts';

test('every parameter has a label, a group and a position', () => {
  const properties = requestProperties({ model: 'camera', limits: { maxFrames: 100, maxFps: 120 }, bridge: undefined });
  expect(Object.keys(PARAMETER_LABELS).toSorted()).toEqual(Object.keys(properties).toSorted());
  expect(properties.T).toMatchObject({ title: 'Frames', 'x-group': 'Clip', 'x-slider-maximum': 50 });
  const positions = Object.values(properties).map((schema) => schema['x-order']);
  expect(positions.toSorted((a, b) => a - b)).toEqual(positions.map((_, i) => i));
});
