import { bridgeContract } from '../../../test/contracts/bridge-contract.ts';

bridgeContract('legnext', {
  refusals: {
    INVALID_PARAMETER: 'invalid_input',
    NO_CREDIT: 'no_credit',
    SENSITIVE: 'banned_prompt',
    NO_PERMISSION: 'no_credit',
    TOO_LARGE: 'invalid_input',
    UNPROCESSABLE: 'invalid_input',
    SLOW_DOWN: 'rate_limited',
  },
  failures: {
    BANNED_PROMPT: 'banned_prompt',
    BAD_FLAG: 'invalid_input',
    QUEUE_FULL: 'queue_full',
    INTERNAL_ERROR: 'upstream_error',
  },
  statuses: [
    [400, { error: { code: 400, message: 'Banned prompt detected' } }, 'banned_prompt', /Banned prompt detected$/],
    [400, { message: 'no' }, 'invalid_input', /no$/],
    [401, {}, 'no_credit', /credit$/],
    [402, { code: 402, message: 'pay' }, 'no_credit', /credit$/],
    [403, { error: { code: 403, raw_message: 'sensitive words' } }, 'banned_prompt', /sensitive words$/],
    [404, {}, 'upstream_error', /failed$/],
    [413, {}, 'invalid_input', /./],
    [422, { error: { message: 'text too long' } }, 'invalid_input', /text too long$/],
    [429, {}, 'rate_limited', /slow down$/],
    [301, {}, 'upstream_error', /failed$/],
  ],
  polling: {
    progress: [0.3, 0.3],
    unknown: [{}, [], 'soon', null, { status: 'new' }, { status: 'completed', output: { image_urls: 'x' } }],
    empty: { job_id: '1', status: 'completed', output: { image_url: '', image_urls: null }, error: { code: 0 } },
  },
  onlyGrid: ({ output, ...rest }: { output: object }) => ({ ...rest, output: { ...output, image_urls: null } }),
  keepsRef: false,
  finds: false,
  cancels: false,
});
