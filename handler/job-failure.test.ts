import { expect, test } from 'vitest';
import { JobError } from '../core/job.ts';
import { failureOf } from './job-failure.ts';

const usage = { started_at: 1, gpu_ms: 2 };
const of = (error: unknown, device: string | undefined, aborted = false) =>
  failureOf(error, { usage, aborted, device });

test('after an unexpected error on a GPU the worker ends, to be verified anew', () => {
  for (const device of ['cuda', 'webgpu'])
    expect(of(new Error('device lost'), device)).toEqual({
      error: expect.stringContaining('"code":"internal","message":"the worker failed; its log says why"'),
      refresh_worker: true,
    });
});

test('it stays after the errors of jobs, after a stop, and without a GPU', () => {
  const failures = [
    of(new JobError('out_of_memory', 'memory ran out'), 'cuda'),
    of(new Error('aborted'), 'cuda', true),
    of(new Error('disk is full'), 'cpu'),
    of(new Error('disk is full'), undefined),
  ];
  for (const failure of failures) expect(failure).not.toHaveProperty('refresh_worker');
  expect(JSON.parse(failures[0]!.error)).toMatchObject({ code: 'out_of_memory', message: 'memory ran out', usage });
});
