/** Downloads the pictures of a finished imagine. */
import sharp from 'sharp';
import { JobError } from '../../../core/job.ts';
import { MAX_PICTURE_BYTES } from '../../../core/picture/limits.ts';
import { pictureTooLarge, toPng } from '../../../core/picture/picture.ts';
import { type FetchOptions, fetchPicture } from '../fetch-picture.ts';
import type { Bridge, ImagineStatus } from './bridge.ts';

/**
 * @returns PNGs: the pictures themselves, or the quadrants of the grid
 * @throws JobError image_unavailable
 */
export async function downloadImagine(
  { pictures, grid }: Extract<ImagineStatus, { status: 'done' }>,
  bridge: Bridge,
  { allowPrivate, signal }: FetchOptions,
): Promise<Buffer[]> {
  const download = async (url: string) => {
    try {
      const bytes = url.startsWith('data:')
        ? readDataUrl(url)
        : await fetchFromBridge(url, bridge, { allowPrivate, signal });
      return await toPng(bytes, signal);
    } catch (error) {
      if (!(error instanceof JobError) || error.code !== 'image_rejected') throw error;
      throw new JobError('image_unavailable', 'the bridge’s picture can’t be used', { cause: error }); // not the caller's fault
    }
  };
  try {
    if (pictures.length > 0) return await Promise.all(pictures.map(download));
  } catch (error) {
    if (!(error instanceof JobError) || grid === undefined) throw error;
  }
  return cutQuadrants(await download(grid!));
}

/** @throws JobError image_rejected the picture is too large */
function readDataUrl(url: string): Buffer {
  const bytes = Buffer.from(url.slice(url.indexOf(',') + 1), 'base64');
  if (bytes.length > MAX_PICTURE_BYTES) throw pictureTooLarge();
  return bytes;
}

/** Fetches a picture, through the bridge if the picture's host refuses us. */
async function fetchFromBridge(url: string, bridge: Bridge, { allowPrivate, signal }: FetchOptions) {
  if (!URL.canParse(url)) throw new JobError('upstream_error', 'the bridge gave a picture without a URL');
  try {
    return await fetchPicture(url, { name: 'the bridge’s picture', allowPrivate, trusts: bridge.trusts, signal });
  } catch (error) {
    if (!bridge.picture || !(error instanceof JobError) || error.code !== 'image_unavailable') throw error;
    return bridge.picture(url, signal).catch(() => {
      throw error; // the first reason says more
    });
  }
}

/** The four pictures of a 2×2 grid, row by row. */
async function cutQuadrants(grid: Buffer): Promise<Buffer[]> {
  const meta = await sharp(grid).metadata();
  const width = Math.floor(meta.width / 2);
  const height = Math.floor(meta.height / 2);
  const cut = (left: number, top: number) =>
    sharp(grid).extract({ left, top, width, height }).png({ compressionLevel: 2 }).toBuffer();
  return Promise.all([cut(0, 0), cut(width, 0), cut(0, height), cut(width, height)]);
}
