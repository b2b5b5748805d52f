import { validate as isUuid } from 'uuid';
import { escapeHtml } from '../docs/highlight.ts';
import { endpoint } from '../http/endpoint.ts';
import { pagePolicy } from '../http/static-files.ts';
import { isShared } from '../tasks/share-link.ts';

/** The page of one clip, for people with its signed link: a player, and what messengers show of it. */
export const clip = endpoint({
  method: 'GET',
  path: '/clip/:id',
  handle({ bucket, linkOrigin, now, store }) {
    const headers = {
      'content-security-policy': pagePolicy(`media-src ${linkOrigin}`, `img-src 'self' ${linkOrigin}`),
      'x-robots-tag': 'noindex',
    };
    return async (c) => {
      const { expires, signature } = c.req.query();
      const id = c.req.param('id')!;
      const task = isUuid(id) ? await store.get(id) : undefined;
      if (!task || !isShared(task, { expires, signature }, now()))
        return c.html(render('This link is not valid, or has expired.'), 403, headers);
      if (!task.output || !task.still || task.expired_at !== null)
        return c.html(render('This clip was deleted.'), 404, headers);

      const [first] = task.output.videos;
      const { key, width, height, seconds } = task.output.grid ?? first!;
      const poster = first?.poster ?? task.still_preview ?? task.still; // an older worker makes no posters
      const [video, picture] = await Promise.all([key, poster].map((one) => bucket.link(one, Number(expires))));
      const title = `A clip of ${Number(seconds.toFixed(1))} s`; // the prompt may be private
      const properties = {
        'og:type': 'video.other',
        'og:title': title,
        'og:image': picture,
        'og:video': video,
        'og:video:type': 'video/mp4',
        'og:video:width': width,
        'og:video:height': height,
      };
      const meta = Object.entries(properties).map(
        ([name, content]) => `<meta property="${name}" content="${escapeHtml(String(content))}">\n`,
      );
      const player = `<video src="${escapeHtml(video!)}" poster="${escapeHtml(picture!)}" width="${width}" height="${height}" aria-label="${title}" controls loop playsinline preload="metadata"></video>`;
      return c.html(render(title, player, meta.join('')), 200, headers);
    };
  },
});

/** @param title shown only without a player @param meta further elements of the head */
const render = (title: string, player = '', meta = '') => `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
<meta name="twitter:card" content="summary_large_image">
<title>${title}</title>
${meta}<link rel="icon" href="/page/icon.svg">
<link rel="stylesheet" href="/page/clip.css">
</head>
<body><main><h1>${title}</h1>${player}</main></body>
</html>
`;
