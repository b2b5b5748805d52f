/**
 * Legnext's protocol on this machine: POST /api/v1/diffusion, GET /api/v1/job/:id. Words in the prompt make it fail: those of `REFUSALS`
 * when it is asked, those of `FAILURES` later.
 */
import { Hono } from 'hono';
import { type BridgeServer, type BridgeServerOptions, type Imagine, imagineLedger, wordIn } from './imagines.ts';

const REFUSALS = {
  INVALID_PARAMETER: [400, 'Invalid parameter'],
  NO_CREDIT: [402, 'Insufficient balance'],
  SENSITIVE: [403, 'The text contains sensitive content'],
  NO_PERMISSION: [403, 'No permission for this resource'],
  TOO_LARGE: [413, 'Request entity too large'],
  UNPROCESSABLE: [422, 'text: length must be between 1 and 8192'],
  SLOW_DOWN: [429, 'Too many requests'],
} as const;

const FAILURES: Record<string, string> = {
  BANNED_PROMPT: 'Banned prompt detected',
  BAD_FLAG: 'Invalid parameter',
  QUEUE_FULL: 'Queue full',
  INTERNAL_ERROR: 'Internal server error',
};

const NO_ERROR = { code: 0, raw_message: '', message: '', detail: null };
const errorOf = (code: number, message: string) => ({ code, raw_message: message, message, detail: null });

export function legnextServer(options: BridgeServerOptions): BridgeServer {
  const { imagines, pictures, paid, take, progress, pictureLink, time } = imagineLedger(options, Object.keys(FAILURES));
  const app = new Hono();
  app.route('/', pictures);

  app.use(async (c, next) => {
    if (c.req.header('x-api-key') === options.apiKey) return next();
    return c.json({ error: errorOf(401, 'Invalid API key') }, 401);
  });

  /** A job as both calls show it. */
  const shown = ({ id, created }: Imagine, status: string, more: object = {}) => ({
    job_id: id,
    model: 'midjourney',
    task_type: 'diffusion',
    status,
    input: null,
    output: { image_url: '', image_urls: null, seed: '' },
    meta: { created_at: time(created), usage: { type: 'point', frozen: 80, consume: 0 } },
    error: NO_ERROR,
    ...more,
  });

  app.post('/api/v1/diffusion', async (c) => {
    const { text } = await c.req.json();
    const word = wordIn(text, Object.keys(REFUSALS)) as keyof typeof REFUSALS | undefined;
    if (word) return c.json({ error: errorOf(REFUSALS[word][0], REFUSALS[word][1]) }, REFUSALS[word][0]);
    return c.json(shown(take(text), 'pending'));
  });

  app.get('/api/v1/job/:id', (c) => {
    const imagine = imagines.get(c.req.param('id'));
    if (!imagine) return c.json({ error: errorOf(404, 'Job not found') }, 404);
    if (imagine.failure) return c.json(shown(imagine, 'failed', { error: errorOf(500, FAILURES[imagine.failure]!) }));
    const percent = progress(imagine);
    if (percent < 100)
      return c.json(shown(imagine, percent === 0 ? 'pending' : percent < 30 ? 'staged' : 'processing'));
    const image_urls = [1, 2, 3, 4].map((index) => pictureLink(c, '/', imagine, index));
    const output = { image_url: pictureLink(c, '/', imagine, 'grid'), image_urls, seed: '2452171661' };
    return c.json(shown(imagine, 'completed', { output }));
  });

  return { app, imagines, paid };
}
