/**
 * A thread that sends pings to RunPod: the worker is alive and has these jobs. The main thread can be blocked for minutes. It is
 * JavaScript because a thread can't load TypeScript that is compiled on the fly.
 *
 * workerData: `{url, key, interval, timeout}`, times in milliseconds. Receives the ids of the active jobs after each change. Sends the
 * reason of each failed ping.
 */
import http from 'node:http';
import https from 'node:https';
import { parentPort, workerData } from 'node:worker_threads';

const { url, key, interval, timeout } = workerData;
let jobIds = [];
parentPort.on('message', (ids) => {
  jobIds = ids;
});

const RETRY_DELAY = 2000; // milliseconds

/** Resolves to the status. Not fetch, whose first use takes 8 to 16 MB in each thread. */
function request(target) {
  return new Promise((resolve, reject) => {
    const { get } = target.protocol === 'https:' ? https : http;
    const call = get(target, { headers: { authorization: key }, signal: AbortSignal.timeout(timeout) }, (response) => {
      response.resume();
      response.on('end', () => resolve(response.statusCode)).on('error', reject);
    });
    call.on('error', (error) => reject(error.cause ?? error)); // of an abort: the timeout
  });
}

async function ping() {
  let wait = interval;
  const target = new URL(url);
  if (jobIds.length > 0) target.searchParams.set('job_id', jobIds.join(','));
  try {
    const status = await request(target);
    if (status < 200 || status >= 300) throw new Error(`ping answered ${status}`);
  } catch (error) {
    parentPort.postMessage(error.message || error.code);
    wait = Math.min(interval, RETRY_DELAY);
  }
  setTimeout(ping, wait);
}
void ping();
