/** What the simulators of image providers share: the tasks they have accepted, their progress, and pictures drawn on request. */
import { randomUUID } from 'node:crypto';
import { type Context, Hono } from 'hono';
import sharp from 'sharp';
import { SECOND } from '../../../core/time.ts';
import { placeholder } from '../placeholder.ts';

export interface BridgeServerOptions {
  apiKey: string;
  /** of an imagine; milliseconds, default 600 */
  duration?: number;
  now?: () => number;
  /** of a picture, in pixels; default 1024, as Midjourney's */
  longerSide?: number;
  /** @returns one of the four pictures, 1–4, as a PNG */
  draw?: (words: string, index: number, width: number, height: number) => Promise<Buffer>;
}

interface Size {
  /** pixels */
  width: number;
  height: number;
}

export interface Imagine {
  id: string;
  prompt: string;
  ref: string | undefined;
  /** milliseconds since 1970 */
  created: number;
  canceled: boolean;
  /** the message with which it fails */
  failure: string | undefined;
  /** of its pictures; default: by the prompt's `--ar` */
  size: Size | undefined;
}

/** @param failures messages by keyword: an imagine with the keyword in its prompt is accepted and fails with the message */
export function createImagines(
  { duration = 0.6 * SECOND, now = Date.now, longerSide = 1024, draw = placeholder }: BridgeServerOptions,
  failures: Record<string, string>,
) {
  const imagines = new Map<string, Imagine>();
  const app = new Hono();

  app.get('/pictures/:id/:file{([1-4]|grid)\\.png}', async (c) => {
    const imagine = imagines.get(c.req.param('id'));
    if (!imagine) return c.notFound();
    const { words, width, height } = describe(imagine);
    const [index] = c.req.param('file').split('.');
    const png =
      index === 'grid' ? await drawGrid(words, width, height) : await draw(words, Number(index), width, height);
    return c.body(new Uint8Array(png), 200, { 'content-type': 'image/png' });
  });

  const describe = ({ prompt, size }: Imagine) => ({ ...parsePrompt(prompt, longerSide), ...size });

  async function drawGrid(words: string, width: number, height: number): Promise<Buffer> {
    const quarters = await Promise.all([1, 2, 3, 4].map((index) => draw(words, index, width, height)));
    const canvas = sharp({ create: { width: 2 * width, height: 2 * height, channels: 3, background: '#000' } });
    return canvas
      .composite(quarters.map((input, i) => ({ input, left: width * (i % 2), top: height * Math.floor(i / 2) })))
      .png({ compressionLevel: 2 })
      .toBuffer();
  }

  return {
    /** to be mounted at the path of the provider's base URL; has a route for pictures, which needs no key */
    app,
    /** all that were accepted, by id */
    imagines,
    /** how many of them the operator pays for: those that do not fail */
    paid: () => [...imagines.values()].filter(({ failure }) => !failure).length,

    accept(prompt: string, ref?: string, size?: Size): Imagine {
      const failure = findKeyword(prompt, failures);
      const imagine = { id: randomUUID(), prompt, ref, created: now(), canceled: false, failure, size };
      imagines.set(imagine.id, imagine);
      return imagine;
    },

    /** 0–100 */
    progress: ({ created }: Imagine) => Math.min(100, Math.floor((100 * (now() - created)) / Math.max(1, duration))),

    /** @param index 1–4. @returns a PNG */
    draw(imagine: Imagine, index: number): Promise<Buffer> {
      const { words, width, height } = describe(imagine);
      return draw(words, index, width, height);
    },

    /** @param root the path from the request's URL to the app's */
    pictureUrls(c: Context, { id }: Imagine, root = '/') {
      const url = (name: string) => new URL(`${root}pictures/${id}/${name}.png`, c.req.url).href;
      return { grid: url('grid'), single: ['1', '2', '3', '4'].map(url) };
    },

    isoTime: (ms = now()) => new Date(ms).toISOString(),
  };
}

/** The entry of the first keyword that the prompt contains as a word. */
export const findKeyword = <T>(prompt: string, entries: Record<string, T>): T | undefined =>
  Object.entries(entries).find(([keyword]) => prompt.split(/\s+/).includes(keyword))?.[1];

/** The prompt without its flags, and the picture's size by its `--ar W:H`. */
function parsePrompt(prompt: string, longerSide: number): { words: string } & Size {
  const [, w = '1', h = '1'] = /--(?:ar|aspect)\s+(\d+):(\d+)/i.exec(prompt) ?? [];
  const scale = longerSide / Math.max(Number(w), Number(h));
  const words = prompt.replace(/\s--\S.*$/s, '').trim();
  return {
    words,
    width: Math.max(1, Math.round(Number(w) * scale)),
    height: Math.max(1, Math.round(Number(h) * scale)),
  };
}
