import type { Still } from '../../handler/models/model.ts';

/** A still of width×height pixels, rgb24. @param value of channel c (0–2) at (x, y), 0–255 */
export function paint(width: number, height: number, value: (x: number, y: number, c: number) => number): Still {
  const data = new Uint8Array(width * height * 3);
  for (let i = 0; i < data.length; i++) {
    const pixel = Math.floor(i / 3);
    data[i] = value(pixel % width, Math.floor(pixel / width), i % 3);
  }
  return { data, width, height };
}
