/**
 * TheNextLeg's v2 protocol on this machine: POST /imagine, GET /message/:id, POST /getImage. Prompts with a word of `FAILURES` fail in
 * that way, so that every error of the real bridge can be tried.
 */
import { Hono } from 'hono';
import { type BridgeServer, type BridgeServerOptions, imagineLedger } from './imagines.ts';

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
export function tnlServer(options: BridgeServerOptions): BridgeServer {
  const { imagines, pictures, paid, take, progress, pictureLink, time } = imagineLedger(options, FAILURES);
  const app = new Hono();
  app.route('/', pictures);

  app.use(async (c, next) => {
    if (c.req.header('authorization') === `Bearer ${options.apiKey}`) return next();
    return c.json({ success: false, msg: 'Unauthorized' }, 401);
  });

  app.post('/imagine', async (c) => {
    const { msg, ref } = await c.req.json();
    if (typeof msg !== 'string' || msg === '') return c.json({ success: false, msg: "Invalid phrase: ''" }, 400);
    return c.json({ success: true, messageId: take(msg, ref).id, createdAt: time() });
  });

  app.get('/message/:id', (c) => {
    const imagine = imagines.get(c.req.param('id'));
    if (!imagine) return c.json({ progress: 'incomplete' });
    const { id, failure, prompt, ref, created } = imagine;
    if (progress(imagine) < 100 && !failure) return c.json({ progress: progress(imagine), progressImageUrl: '' });
    const links = [1, 2, 3, 4].map((index) => pictureLink(c, '../', imagine, index));
    return c.json({
      progress: 100,
      response: {
        ...(failure
          ? { content: failure }
          : { imageUrl: pictureLink(c, '../', imagine, 'grid'), imageUrls: links, content: prompt }),
        originatingMessageId: id,
        ref,
        createdAt: time(created),
        responseAt: time(),
        buttons: ['U1', 'U2', 'U3', 'U4'],
        buttonMessageId: id,
      },
    });
  });

  app.post('/getImage', async (c) => {
    const { imgUrl } = await c.req.json();
    const path = /\/pictures\/.*$/.exec(String(imgUrl))?.[0];
    return path ? pictures.request(path) : c.json({ success: false, msg: 'Invalid image' }, 400);
  });

  return { app, imagines, paid };
}
