/** The place of a queued task, and the time until its end. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { type TestService, testService } from '../../test/support/test-api.ts';
import type { Changes } from '../store/task.ts';

let service: TestService;
beforeEach(async () => {
  service = await testService();
});
afterEach(async () => {
  vi.restoreAllMocks();
  await service.close();
});

const image_url = 'https://example.com/a.png';
const create = async (body: object, headers: Record<string, string> = {}) => {
  const init = { headers: { 'content-type': 'application/json', ...headers } };
  return (await (await service.post(body, init)).json()).id as string;
};
const placesOf = async (ids: string[], headers: Record<string, string> = {}) =>
  Promise.all(
    ids.map(async (id) => {
      const task = await (await fetch(`${service.url}/tasks/${id}`, { headers })).json();
      return [task.queue_position, task.eta_seconds];
    }),
  );
const sorted = (places: (number | undefined)[][]) => places.toSorted(([a = 0], [b = 0]) => a - b);
/** Lets the places that are known become old. */
const later = () => {
  service.clock.ahead += 1100;
};

/** Changes the task as a worker's report would, while RunPod is away. */
async function report(id: string, changes: Changes) {
  while (!(await service.store.update((await service.store.get(id))!, changes)));
}

test('queued tasks have places in the order of their turns, and the time counts all before', async () => {
  service.faults.runpod = () => new Response('down', { status: 503 });
  const clip = { image_url, T: 100, num_cols: 10, steps: 10, W: 512, H: 512 };
  const ids = [await create(clip), await create(clip), await create(clip)];
  const quote = await fetch(`${service.url}/img2vid?dry_run=1`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(clip),
  });
  const { expected_seconds } = (await quote.json()).cost_estimate;
  const etas = (clips: number[]) => clips.map((count, i) => [i + 1, Math.ceil(count * expected_seconds)]);
  await report(ids[0]!, { status: 'running', job_id: 'job', submitted_at: Date.now(), started_at: Date.now() });
  later();
  expect(sorted(await placesOf(ids.slice(1)))).toEqual(etas([2, 3])); // refused submissions may change their order
  expect((await placesOf(ids.slice(0, 1)))[0]![0]).toBeUndefined(); // it runs
  await report(ids[0]!, { progress: 0.5 });
  later();
  expect(sorted(await placesOf(ids.slice(1)))).toEqual(etas([1.5, 2.5]));
  await report(ids[1]!, { status: 'running', job_id: 'job 2', submitted_at: Date.now(), started_at: Date.now() });
  later();
  expect(await placesOf(ids.slice(2))).toEqual(etas([1.75])); // of two workers
  const listed = await (await fetch(`${service.url}/tasks?status=queued`)).json();
  expect(listed).toMatchObject([{ id: ids[2], queue_position: 1 }]);
});

test('the time is not known while a bridge has yet to draw, or no worker has begun', async () => {
  const [prompt, picture] = [await create({ prompt: 'x' }), await create({ image_url })];
  later();
  const [unknown, known] = (await placesOf([prompt, picture])) as [(number | undefined)[], (number | undefined)[]];
  expect([unknown[0], known[0]].toSorted()).toEqual([1, 2]); // both are submitted at once
  expect(unknown[1]).toBeUndefined();
  expect(known[1]).toEqual(service.isQueueLocal ? expect.any(Number) : undefined);
});

test('tasks without a job have the places in which keys take turns', async () => {
  service.faults.runpod = () => new Response('down', { status: 503 });
  const keys = [await service.key(), await service.key()];
  const own = (key: number) => create({ image_url }, keys[key]!.headers);
  const ids = [await own(0), await own(0), await own(0)];
  const late = await own(1);
  later();
  const places = [...(await placesOf(ids, keys[0]!.headers)), ...(await placesOf([late], keys[1]!.headers))];
  const positions = places.map(([position]) => position);
  expect(positions.toSorted()).toEqual([1, 2, 3, 4]);
  expect(positions[3]).toBeLessThanOrEqual(2); // before the other key’s second task
});

test('the queue is read once a second however many tasks are read, and a new task has its place', async () => {
  const id = await create({ image_url });
  const read = vi.spyOn(service.store, 'listQueue');
  later();
  for (let i = 0; i < 20; i++) await placesOf([id]);
  expect(read.mock.calls.length).toBeLessThanOrEqual(2);
  service.clock.ahead += 900;
  const answer = await (await service.post({ image_url })).json();
  expect(answer.queue_position).toBe(2);
});

test('without the queue a task is shown without its place', async () => {
  const id = await create({ image_url });
  vi.spyOn(service.store, 'listQueue').mockRejectedValue(new Error('no'));
  later();
  expect(await placesOf([id])).toEqual([[undefined, undefined]]);
});
