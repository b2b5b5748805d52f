/**
 * A simulator of TheNextLeg v2: POST /imagine, GET /message/:id, POST /getImage. A keyword of `FAILURES` in the prompt makes the message
 * fail with that error.
 */
import { type BridgeServerOptions, createImagines } from './imagines.ts';

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

/** To be mounted at MIDJOURNEY_BASE_URL's path, such as /v2. */
export function tnlServer(options: BridgeServerOptions) {
  const failures = Object.fromEntries(FAILURES.map((keyword) => [keyword, keyword]));
  const { app, imagines, paid, accept, progress, pictureUrls, isoTime } = createImagines(options, failures);

  app.use(async (c, next) => {
    if (c.req.header('authorization') === `Bearer ${options.apiKey}`) return next();
    return c.json({ success: false, msg: 'Unauthorized' }, 401);
  });

  app.post('/imagine', async (c) => {
    const { msg, ref } = await c.req.json();
    if (typeof msg !== 'string' || msg === '') return c.json({ success: false, msg: "Invalid phrase: ''" }, 400);
    return c.json({ success: true, messageId: accept(msg, ref).id, createdAt: isoTime() });
  });

  app.get('/message/:id', (c) => {
    const imagine = imagines.get(c.req.param('id'));
    if (!imagine) return c.json({ progress: 'incomplete' });
    const { id, failure, prompt, ref, created } = imagine;
    if (progress(imagine) < 100 && !failure) return c.json({ progress: progress(imagine), progressImageUrl: '' });
    const { grid, single } = pictureUrls(c, imagine, '../');
    return c.json({
      progress: 100,
      response: {
        ...(failure ? { content: failure } : { imageUrl: grid, imageUrls: single, content: prompt }),
        originatingMessageId: id,
        ref,
        createdAt: isoTime(created),
        responseAt: isoTime(),
        buttons: ['U1', 'U2', 'U3', 'U4'],
        buttonMessageId: id,
      },
    });
  });

  app.post('/getImage', async (c) => {
    const { imgUrl } = await c.req.json();
    const path = /\/pictures\/.*$/.exec(String(imgUrl))?.[0];
    return path ? app.request(path) : c.json({ success: false, msg: 'Invalid image' }, 400);
  });

  return { app, imagines, paid };
}
