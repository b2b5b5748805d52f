/**
 * A thread that tells RunPod that this worker lives and which jobs it holds, also while the main thread is busy: a network's run can
 * hold that one for minutes. It is JavaScript so that a thread can be made of it wherever the rest has been compiled on the fly.
 *
 * workerData: {url, key, interval and timeout in milliseconds}. In: the ids of the jobs in hand, after each change. Out: why a ping
 * has failed, in a few words.
 */
import http from 'node:http';
import https from 'node:https';
import { parentPort, workerData } from 'node:worker_threads';

const { url, key, interval, timeout } = workerData;
let jobIds = [];
parentPort.on('message', (ids) => {
  jobIds = ids;
});

const SOON = 2000; // milliseconds, for the ping after one that has failed

/** Not fetch, whose first use takes 8 to 16 MB of a thread of its own. */
function get(address) {
  return new Promise((resolve, reject) => {
    const { get } = address.protocol === 'https:' ? https : http;
    const call = get(address, { headers: { authorization: key }, signal: AbortSignal.timeout(timeout) }, (response) => {
      response.resume();
      response.on('end', () => resolve(response.statusCode)).on('error', reject);
    });
    call.on('error', (error) => reject(error.cause ?? error)); // of an abort: that it took too long
  });
}

async function ping() {
  let wait = interval;
  const address = new URL(url);
  if (jobIds.length > 0) address.searchParams.set('job_id', jobIds.join(','));
  try {
    const status = await get(address);
    if (status < 200 || status >= 300) throw new Error(`ping answered ${status}`);
  } catch (error) {
    parentPort.postMessage(error.message || error.code);
    wait = Math.min(interval, SOON);
  }
  setTimeout(ping, wait);
}
void ping();
