/**
 * TheNextLeg's v2 protocol on this machine, with placeholders for pictures: POST /imagine, GET /message/:id. Prompts with a word of
 * `FAILURES` in capitals fail in that way, so that every error of the real bridge can be tried.
 */
import { randomUUID } from 'node:crypto';
import { Hono } from 'hono';
import { placeholder } from './placeholder.ts';

const SECOND = 1000;

const FAILURES = [
  'BANNED_PROMPT',
  'QUEUE_FULL',
  'NO_FAST_HOURS',
  'INVALID_PARAMETER',
  'INVALID_LINK',
  'IMAGE_BLOCKED',
  'BLOCKED',
  'MODERATION_OUTAGE',
  'INTERNAL_ERROR',
];

export interface BridgeServerOptions {
  apiKey: string;
  /** how long an imagine takes; milliseconds */
  duration?: number;
  now?: () => number;
  /** makes one of the four pictures, 1–4, as a PNG */
  draw?: (words: string, index: number, width: number, height: number) => Promise<Buffer>;
}

interface Imagine {
  id: string;
  prompt: string;
  ref: string | undefined;
  created: number;
}

/** @returns the app, to be mounted at MIDJOURNEY_BASE_URL's path, such as /v2; and the imagines that were asked (and would be paid) for */
export function bridgeServer({
  apiKey,
  duration = 0.6 * SECOND,
  now = Date.now,
  draw = placeholder,
}: BridgeServerOptions) {
  const imagines = new Map<string, Imagine>();
  const app = new Hono();

  app.post('/imagine', async (c) => {
    if (c.req.header('authorization') !== `Bearer ${apiKey}`)
      return c.json({ success: false, msg: 'Unauthorized' }, 401);
    const { msg, ref } = await c.req.json();
    if (typeof msg !== 'string' || msg === '') return c.json({ success: false, msg: "Invalid phrase: ''" }, 400);
    const id = randomUUID();
    imagines.set(id, { id, prompt: msg, ref, created: now() });
    return c.json({ success: true, messageId: id, createdAt: new Date(now()).toISOString() });
  });

  app.get('/message/:id', (c) => {
    if (c.req.header('authorization') !== `Bearer ${apiKey}`)
      return c.json({ success: false, msg: 'Unauthorized' }, 401);
    const imagine = imagines.get(c.req.param('id'));
    if (!imagine) return c.json({ progress: 'incomplete' });
    const failure = FAILURES.find((word) => imagine.prompt.split(/\s+/).includes(word));
    const progress = Math.min(100, Math.floor((100 * (now() - imagine.created)) / Math.max(1, duration)));
    if (progress < 100 && !failure) return c.json({ progress, progressImageUrl: '' });
    const base = new URL(c.req.url);
    const picture = (index: number) => new URL(`../pictures/${imagine.id}/${index}.png`, base).href;
    return c.json({
      progress: 100,
      response: {
        ...(failure ? { content: failure } : { imageUrls: [1, 2, 3, 4].map(picture), content: imagine.prompt }),
        originatingMessageId: imagine.id,
        ref: imagine.ref,
        createdAt: new Date(imagine.created).toISOString(),
        responseAt: new Date(now()).toISOString(),
        buttons: ['U1', 'U2', 'U3', 'U4'],
        buttonMessageId: imagine.id,
      },
    });
  });

  app.get('/pictures/:id/:file{[1-4]\\.png}', async (c) => {
    const imagine = imagines.get(c.req.param('id'));
    if (!imagine) return c.notFound();
    const { words, width, height } = readPrompt(imagine.prompt);
    const png = await draw(words, Number(c.req.param('file')[0]), width, height);
    return c.body(new Uint8Array(png), 200, { 'content-type': 'image/png' });
  });

  return { app, imagines };
}

const LONGER_SIDE = 1024; // pixels, as Midjourney's

/** The prompt without its flags, and the picture's size by its `--ar W:H`. */
function readPrompt(prompt: string): { words: string; width: number; height: number } {
  const [, w = '1', h = '1'] = /--(?:ar|aspect)\s+(\d+):(\d+)/i.exec(prompt) ?? [];
  const scale = LONGER_SIDE / Math.max(Number(w), Number(h));
  const words = prompt.replace(/\s--\S.*$/s, '').trim();
  return {
    words,
    width: Math.max(1, Math.round(Number(w) * scale)),
    height: Math.max(1, Math.round(Number(h) * scale)),
  };
}
