import { expect, test } from 'vitest';
import { bridgeContract } from '../../../test/contracts/bridge-contract.ts';
import { startBridge } from '../../../test/support/test-bridge.ts';

bridgeContract('imaginepro', {
  refusals: {
    INVALID_PARAMETERS: 'invalid_input',
    CONTENT_POLICY_VIOLATION: 'banned_prompt',
    INSUFFICIENT_CREDITS: 'no_credit',
    RATE_LIMIT_EXCEEDED: 'rate_limited',
  },
  failures: {
    BANNED_PROMPT: 'banned_prompt',
    MODERATED: 'banned_prompt',
    INVALID_PARAMETER: 'invalid_input',
    INVALID_LINK: 'image_unavailable',
    QUEUE_FULL: 'queue_full',
    NO_FAST_HOURS: 'no_credit',
    TIMED_OUT: 'upstream_timeout',
    INTERNAL_ERROR: 'upstream_error',
  },
  statuses: [
    [400, { statusCode: 400, message: 'prompt should not be empty', error: 'Bad Request' }, 'invalid_input', /./],
    [401, { statusCode: 401, message: 'Unauthorized' }, 'no_credit', /credit$/],
    [402, {}, 'no_credit', /credit$/],
    [403, { error: 'Forbidden' }, 'no_credit', /credit$/],
    [404, { error: 'Not Found' }, 'upstream_error', /failed$/],
    [429, { error: 'Too Many Requests' }, 'rate_limited', /slow down$/],
    [307, {}, 'upstream_error', /failed$/],
  ],
  polling: {
    progress: [0.4, 0.8],
    unknown: [{}, [], 'soon', null, { status: 'NEW' }, { status: 'DONE', uri: 5 }],
    empty: { messageId: '1', status: 'DONE', progress: 100, uri: '' },
  },
  keepsRef: true,
  finds: false,
  cancels: false,
});

test('a refusal with status 200 has Midjourney’s message', async () => {
  const { bridge, close } = await startBridge('imaginepro', {
    intervene: (_, count, c) =>
      c.json(
        count === 1
          ? { success: false, messageId: '1', error: 'Banned prompt' }
          : { success: 'FAIL', error: 'Not enough credits' },
      ),
  });
  await expect(bridge.imagine('x', 'ref')).rejects.toMatchObject({
    code: 'banned_prompt',
    message: expect.stringMatching(/Banned prompt$/),
  });
  await expect(bridge.imagine('x', 'ref')).rejects.toMatchObject({ code: 'no_credit' });
  await close();
});
