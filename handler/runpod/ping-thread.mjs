/**
 * A thread that tells RunPod that this worker lives and which jobs it holds, also while the main thread is busy: a network's run can
 * hold that one for minutes. It is JavaScript so that a thread can be made of it wherever the rest has been compiled on the fly.
 *
 * workerData: {url, key, interval and timeout in milliseconds}. In: the ids of the jobs in hand, after each change. Out: why a ping
 * has failed, in a few words.
 */
import { parentPort, workerData } from 'node:worker_threads';

const { url, key, interval, timeout } = workerData;
let jobIds = [];
parentPort.on('message', (ids) => {
  jobIds = ids;
});

const SOON = 2000; // milliseconds, for the ping after one that has failed

async function ping() {
  let wait = interval;
  const address = new URL(url);
  if (jobIds.length > 0) address.searchParams.set('job_id', jobIds.join(','));
  try {
    const response = await fetch(address, { headers: { authorization: key }, signal: AbortSignal.timeout(timeout) });
    await response.arrayBuffer();
    if (!response.ok) throw new Error(`ping answered ${response.status}`);
  } catch (error) {
    parentPort.postMessage(error.cause?.message || error.message);
    wait = Math.min(interval, SOON);
  }
  setTimeout(ping, wait);
}
void ping();
