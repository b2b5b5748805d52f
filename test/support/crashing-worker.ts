/** For kills.test.ts: a process of its own that makes a still and is killed when it touches a certain object in the bucket. */
import { type Bucket, isBucketKey } from '../../core/bucket/bucket.ts';
import { diskBucket } from '../../core/bucket/disk.ts';
import type { JobInput } from '../../core/job.ts';
import { openBridges } from '../../handler/still/midjourney/open-bridges.ts';
import { prepareStill } from '../../handler/still/still.ts';

/** A call of the bucket, by its key's end and a part of the body, before or after which the process dies. */
export interface Death {
  when: 'before' | 'after';
  call: 'create' | 'put';
  key: string;
  body?: string;
}

export interface Mortal {
  folder: string;
  taskId: string;
  /** as in the environment */
  bridge: string;
  apiKey: string;
  baseUrl: string;
  death?: Death | undefined;
}

/** A bucket whose user dies. */
function mortalBucket(bucket: Bucket, { when, call, key, body = '' }: Death): Bucket {
  const dying =
    (work: (key: string, body: never) => Promise<unknown>) => async (at: string, content: Uint8Array | string) => {
      const isNow = isBucketKey(at) && at.endsWith(key) && String(content).includes(body);
      if (isNow && when === 'before') process.kill(process.pid, 'SIGKILL');
      const result = await work(at, content as never);
      if (isNow) process.kill(process.pid, 'SIGKILL');
      return result;
    };
  return { ...bucket, [call]: dying(bucket[call]) };
}

export async function makeStill({ folder, taskId, bridge, apiKey, baseUrl, death }: Mortal): Promise<Buffer> {
  const disk = await diskBucket(folder, { publicUrl: '' });
  const [own] = openBridges({ MIDJOURNEY_BRIDGE: bridge, MIDJOURNEY_API_KEY: apiKey, MIDJOURNEY_BASE_URL: baseUrl });
  const job = { task_id: taskId, prompt: 'a lighthouse', W: 128, H: 64, image_index: 2 } as JobInput;
  return prepareStill(job, {
    bucket: death ? mortalBucket(disk, death) : disk,
    bridges: [{ ...own!, pollInterval: 1 }],
    allowPrivate: false,
    stillTimeout: 15_000,
    onProgress: () => {},
    signal: new AbortController().signal,
  });
}

if (process.argv[2]) await makeStill(JSON.parse(process.argv[2]) as Mortal);
