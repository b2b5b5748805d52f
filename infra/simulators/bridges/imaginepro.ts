/**
 * A simulator of ImaginePro: POST /api/v1/nova/imagine, GET /api/v1/midjourney/message/:id. A keyword of `REFUSALS` in the prompt makes
 * it refuse the request. One of `FAILURES` makes the task fail, with Midjourney's message.
 */
import { type BridgeServerOptions, createImagines, findKeyword } from './imagines.ts';

const REFUSALS = {
  INVALID_PARAMETERS: { statusCode: 400, message: 'Bad Request', error: 'INVALID_PARAMETERS' },
  CONTENT_POLICY_VIOLATION: { statusCode: 400, message: 'Bad Request', error: 'CONTENT_POLICY_VIOLATION' },
  INSUFFICIENT_CREDITS: { statusCode: 402, message: 'Payment Required', error: 'INSUFFICIENT_CREDITS' },
  RATE_LIMIT_EXCEEDED: { statusCode: 429, message: 'Too Many Requests', error: 'RATE_LIMIT_EXCEEDED' },
} as const;

const FAILURES: Record<string, string> = {
  BANNED_PROMPT: 'Banned prompt detected',
  MODERATED: 'Our AI moderators have blocked this',
  INVALID_PARAMETER: 'Invalid parameter: Unrecognized parameter(s): --foo',
  INVALID_LINK: 'Invalid link! Could not validate this link',
  QUEUE_FULL: 'Queue full',
  NO_FAST_HOURS: 'Fast hours exhausted',
  TIMED_OUT: 'Task timeout',
  INTERNAL_ERROR: 'Internal error',
};

export function imagineproServer(options: BridgeServerOptions) {
  const { app, imagines, paid, accept, progress, pictureUrls, isoTime } = createImagines(options, FAILURES);

  app.use(async (c, next) => {
    if (c.req.header('authorization') === `Bearer ${options.apiKey}`) return next();
    return c.json({ statusCode: 401, message: 'Unauthorized', error: 'INVALID_API_KEY' }, 401);
  });

  app.post('/api/v1/nova/imagine', async (c) => {
    const { prompt, ref } = await c.req.json();
    const refusal = findKeyword(prompt, REFUSALS);
    if (refusal) return c.json(refusal, refusal.statusCode);
    return c.json({ success: true, messageId: accept(prompt, ref).id, createdAt: isoTime() });
  });

  app.get('/api/v1/midjourney/message/:id', (c) => {
    const imagine = imagines.get(c.req.param('id'));
    if (!imagine) return c.json({ statusCode: 404, message: 'Not Found', error: 'Not Found' }, 404);
    const { id: messageId, prompt, ref, failure } = imagine;
    const percent = progress(imagine);
    const common = { messageId, prompt, ref, createdAt: isoTime(imagine.created), updatedAt: isoTime() };
    if (failure) return c.json({ ...common, status: 'FAIL', progress: 0, error: failure });
    if (percent === 0) return c.json({ ...common, status: 'QUEUED', progress: 0 });
    if (percent < 100) return c.json({ ...common, status: 'PROCESSING', progress: percent });
    const uri = pictureUrls(c, imagine).grid;
    return c.json({ ...common, status: 'DONE', progress: 100, uri, originalUrl: uri, buttons: ['U1', 'U2', 'V1'] });
  });

  return { app, imagines, paid };
}
