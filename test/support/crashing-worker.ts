/** For crash.test.ts: a process that makes a still, and kills itself when it writes a certain object to the bucket. */
import { type Bucket, isBucketKey } from '../../core/bucket/bucket.ts';
import { diskBucket } from '../../core/bucket/disk.ts';
import type { JobInput } from '../../core/job.ts';
import { openBridges } from '../../handler/still/bridges/open-bridges.ts';
import { prepareStill } from '../../handler/still/still.ts';

/** The call of the bucket, by the end of its key and a part of its body, before or after which the process dies. */
export interface CrashPoint {
  when: 'before' | 'after';
  call: 'create' | 'put';
  key: string;
  body?: string;
}

export interface CrashingWorker {
  folder: string;
  taskId: string;
  /** as in the environment */
  bridge: string;
  apiKey: string;
  baseUrl: string;
  crash?: CrashPoint | undefined;
}

/** A bucket that kills the process at the crash point. */
function crashingBucket(bucket: Bucket, { when, call, key, body = '' }: CrashPoint): Bucket {
  const withCrash =
    (work: (key: string, body: never) => Promise<unknown>) => async (at: string, content: Uint8Array | string) => {
      const isNow = isBucketKey(at) && at.endsWith(key) && String(content).includes(body);
      if (isNow && when === 'before') process.kill(process.pid, 'SIGKILL');
      const result = await work(at, content as never);
      if (isNow) process.kill(process.pid, 'SIGKILL');
      return result;
    };
  return { ...bucket, [call]: withCrash(bucket[call]) };
}

export async function makeStill(
  { folder, taskId, bridge, apiKey, baseUrl, crash }: CrashingWorker,
  now = Date.now,
): Promise<Buffer> {
  const disk = await diskBucket(folder, { publicUrl: '' });
  const openai = bridge === 'openai' ? { STILL_MODEL: 'flux', STILL_COUNT: 4 } : {};
  const [own] = openBridges({ STILL_BRIDGE: bridge, STILL_API_KEY: apiKey, STILL_BASE_URL: baseUrl, ...openai });
  const job = { task_id: taskId, prompt: 'a lighthouse', W: 128, H: 64, image_index: 2 } as JobInput;
  return prepareStill(job, {
    bucket: crash ? crashingBucket(disk, crash) : disk,
    bridges: [{ ...own!, pollInterval: 1 }],
    allowPrivate: false,
    stillTimeout: 50_000,
    onProgress: () => {},
    now,
    signal: new AbortController().signal,
  });
}

if (process.argv[2]) await makeStill(JSON.parse(process.argv[2]) as CrashingWorker);
