/**
 * A simulator of midjourney-proxy: POST /mj/submit/imagine, GET /mj/task/:id/fetch, GET /mj/task/list. Its fork also has POST
 * /mj/task/:id/cancel, and single pictures. A keyword of `REFUSALS` in the prompt makes it refuse the request. One of `FAILURES` makes
 * the task fail, with Midjourney's message.
 */
import type { Context } from 'hono';
import { type BridgeServerOptions, createImagines, findKeyword, type Imagine } from './imagines.ts';

const REFUSALS = {
  NO_ACCOUNT: { code: 3, description: '无可用的账号实例' },
  EMPTY: { code: 4, description: 'prompt不能为空' },
  SUBMIT_FAILED: { code: 9, description: '提交失败，系统异常' },
  PROXY_QUEUE_FULL: { code: 23, description: '队列已满，请稍后尝试', result: '14001929738841620' },
  BANNED_PROMPT: { code: 24, description: '可能包含敏感词', properties: { promptEn: 'a prompt', bannedWord: 'nude' } },
};

const FAILURES: Record<string, string> = {
  BANNED: '[Banned prompt detected] The word "x" is banned',
  INVALID_PARAMETER: '[Invalid parameter] Invalid value',
  INVALID_LINK: '[Invalid link] Could not validate this link.',
  MIDJOURNEY_QUEUE_FULL: '[Queue full] You have reached the maximum allowed number of concurrent jobs',
  NO_FAST_HOURS: '[Credits exhausted] You have no more fast time',
  MODERATION_OUTAGE: '[Moderation outage] Try later',
  INTERNAL_ERROR: '[Internal Server Error] null',
  TIMED_OUT: '任务超时',
};

/** @param options fork: whether it is the fork, which can cancel and has single pictures; default true */
export function mjProxyServer({ fork = true, ...options }: BridgeServerOptions & { fork?: boolean }) {
  const { app, imagines, paid, accept, progress, pictureUrls } = createImagines(options, FAILURES);

  app.use(async (c, next) => (c.req.header('mj-api-secret') === options.apiKey ? next() : c.body(null, 401)));

  app.post('/mj/submit/imagine', async (c) => {
    const { prompt, state } = await c.req.json();
    const refusal = findKeyword<object>(prompt, REFUSALS);
    if (refusal) return c.json({ result: null, properties: {}, ...refusal });
    const waiting = [...imagines.values()].filter((imagine) => progress(imagine) < 100).length;
    const result = accept(prompt, state).id;
    if (waiting === 0) return c.json({ code: 1, description: '提交成功', result, properties: {} });
    return c.json({
      code: 22,
      description: `排队中，前面还有${waiting}个任务`,
      result,
      properties: { numberOfQueues: waiting },
    });
  });

  function presentTask(c: Context, imagine: Imagine) {
    const { id, prompt, ref, created, failure, canceled } = imagine;
    const percent = progress(imagine);
    const failReason = failure ?? (canceled ? '取消任务' : null);
    const common = {
      id,
      action: 'IMAGINE',
      prompt,
      state: ref ?? null,
      submitTime: created,
      imageUrl: null,
      failReason,
    };
    if (failReason) return { ...common, status: 'FAILURE', progress: '' };
    if (percent === 0) return { ...common, status: 'SUBMITTED', progress: '0%' };
    if (percent < 100) return { ...common, status: 'IN_PROGRESS', progress: `${percent}%` };
    const { grid, single } = pictureUrls(c, imagine);
    const imageUrls = single.map((url) => ({ url, thumbnail: null }));
    return { ...common, status: 'SUCCESS', progress: '100%', imageUrl: grid, ...(fork && { imageUrls }) };
  }

  app.get('/mj/task/:id/fetch', (c) => {
    const imagine = imagines.get(c.req.param('id'));
    return imagine ? c.json(presentTask(c, imagine)) : c.body(null, fork ? 204 : 200);
  });

  app.get('/mj/task/list', (c) => c.json([...imagines.values()].reverse().map((imagine) => presentTask(c, imagine))));

  if (fork)
    app.post('/mj/task/:id/cancel', (c) => {
      const imagine = imagines.get(c.req.param('id'));
      if (imagine) imagine.canceled = true;
      return c.body(null, 200);
    });

  return { app, imagines, paid };
}
