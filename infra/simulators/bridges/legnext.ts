/**
 * A simulator of Legnext: POST /api/v1/diffusion, GET /api/v1/job/:id. A keyword of `REFUSALS` in the prompt makes it refuse the
 * request. One of `FAILURES` makes the job fail.
 */
import { type BridgeServerOptions, createImagines, findKeyword, type Imagine } from './imagines.ts';

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

export function legnextServer(options: BridgeServerOptions) {
  const { app, imagines, paid, accept, progress, pictureUrls, isoTime } = createImagines(options, FAILURES);

  app.use(async (c, next) => {
    if (c.req.header('x-api-key') === options.apiKey) return next();
    return c.json({ error: errorOf(401, 'Invalid API key') }, 401);
  });

  const presentJob = ({ id, created }: Imagine, status: string, more: object = {}) => ({
    job_id: id,
    model: 'midjourney',
    task_type: 'diffusion',
    status,
    input: null,
    output: { image_url: '', image_urls: null, seed: '' },
    meta: { created_at: isoTime(created), usage: { type: 'point', frozen: 80, consume: 0 } },
    error: NO_ERROR,
    ...more,
  });

  app.post('/api/v1/diffusion', async (c) => {
    const { text } = await c.req.json();
    const [status, message] = findKeyword(text, REFUSALS) ?? [];
    if (status) return c.json({ error: errorOf(status, message) }, status);
    return c.json(presentJob(accept(text), 'pending'));
  });

  app.get('/api/v1/job/:id', (c) => {
    const imagine = imagines.get(c.req.param('id'));
    if (!imagine) return c.json({ error: errorOf(404, 'Job not found') }, 404);
    if (imagine.failure) return c.json(presentJob(imagine, 'failed', { error: errorOf(500, imagine.failure) }));
    const percent = progress(imagine);
    if (percent < 100)
      return c.json(presentJob(imagine, percent === 0 ? 'pending' : percent < 30 ? 'staged' : 'processing'));
    const { grid, single } = pictureUrls(c, imagine);
    const output = { image_url: grid, image_urls: single, seed: '2452171661' };
    return c.json(presentJob(imagine, 'completed', { output }));
  });

  return { app, imagines, paid };
}
