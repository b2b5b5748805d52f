/** What the bridges' stand-ins share: who asked for what, how far it is on the clock, and pictures that are drawn when they are fetched. */
import { randomUUID } from 'node:crypto';
import { type Context, Hono } from 'hono';
import sharp from 'sharp';
import { SECOND } from '../../../core/time.ts';
import { placeholder } from '../placeholder.ts';

export interface BridgeServerOptions {
  apiKey: string;
  /** how long an imagine takes; milliseconds */
  duration?: number;
  now?: () => number;
  /** of a picture, in pixels; Midjourney's is the default */
  longerSide?: number;
  /** makes one of the four pictures, 1–4, as a PNG */
  draw?: (words: string, index: number, width: number, height: number) => Promise<Buffer>;
}

export interface Imagine {
  id: string;
  prompt: string;
  ref: string | undefined;
  created: number;
  canceled: boolean;
  /** the word of its prompt for which it fails */
  failure: string | undefined;
}

/** A stand-in: `app` is mounted where the bridge's address leads, `imagines` is all that it has taken. */
export interface BridgeServer {
  app: Hono;
  imagines: Map<string, Imagine>;
  /** how many of them the operator pays for: those that do not fail */
  paid(): number;
}

/** @param failures words for which an imagine that was taken fails */
export function imagineLedger(
  { duration = 0.6 * SECOND, now = Date.now, longerSide = 1024, draw = placeholder }: BridgeServerOptions,
  failures: string[],
) {
  const imagines = new Map<string, Imagine>();

  const pictures = new Hono().get('/pictures/:id/:file{([1-4]|grid)\\.png}', async (c) => {
    const imagine = imagines.get(c.req.param('id'));
    if (!imagine) return c.notFound();
    const { words, width, height } = readPrompt(imagine.prompt, longerSide);
    const [index] = c.req.param('file').split('.');
    const png = index === 'grid' ? await grid(words, width, height) : await draw(words, Number(index), width, height);
    return c.body(new Uint8Array(png), 200, { 'content-type': 'image/png' });
  });

  async function grid(words: string, width: number, height: number): Promise<Buffer> {
    const quarters = await Promise.all([1, 2, 3, 4].map((index) => draw(words, index, width, height)));
    const canvas = sharp({ create: { width: 2 * width, height: 2 * height, channels: 3, background: '#000' } });
    return canvas
      .composite(quarters.map((input, i) => ({ input, left: width * (i % 2), top: height * Math.floor(i / 2) })))
      .png({ compressionLevel: 2 })
      .toBuffer();
  }

  return {
    imagines,
    pictures,
    paid: () => [...imagines.values()].filter(({ failure }) => !failure).length,

    take(prompt: string, ref?: string): Imagine {
      const failure = wordIn(prompt, failures);
      const imagine = { id: randomUUID(), prompt, ref, created: now(), canceled: false, failure };
      imagines.set(imagine.id, imagine);
      return imagine;
    },

    /** 0–100 */
    progress: ({ created }: Imagine) => Math.min(100, Math.floor((100 * (now() - created)) / Math.max(1, duration))),

    /** @param up the way from the request's address to the app's */
    pictureLink: (c: Context, up: string, { id }: Imagine, file: number | 'grid') =>
      new URL(`${up}pictures/${id}/${file}.png`, c.req.url).href,

    time: (ms = now()) => new Date(ms).toISOString(),
  };
}

/** Which of the words stands in a prompt. */
export const wordIn = (prompt: string, words: string[]) => words.find((word) => prompt.split(/\s+/).includes(word));

/** The prompt without its flags, and the picture's size by its `--ar W:H`. */
function readPrompt(prompt: string, longerSide: number): { words: string; width: number; height: number } {
  const [, w = '1', h = '1'] = /--(?:ar|aspect)\s+(\d+):(\d+)/i.exec(prompt) ?? [];
  const scale = longerSide / Math.max(Number(w), Number(h));
  const words = prompt.replace(/\s--\S.*$/s, '').trim();
  return {
    words,
    width: Math.max(1, Math.round(Number(w) * scale)),
    height: Math.max(1, Math.round(Number(h) * scale)),
  };
}
