/**
 * What Node can do at best in `npm run bench -- worker`: loops that take, echo and post, without checks, pings, stops, retries or an
 * end, over node:http, which takes a third of the processor's time of fetch. How far a worker runtime falls behind it is their price.
 */
import { Agent, request } from 'node:http';

const {
  RUNPOD_WEBHOOK_GET_JOB: takeUrl,
  RUNPOD_WEBHOOK_POST_OUTPUT: doneUrl,
  RUNPOD_AI_API_KEY: authorization,
  RUNPOD_POD_ID: id,
  CONCURRENCY,
} = process.env;
const agent = new Agent({ keepAlive: true });

function call(method, url, body) {
  return new Promise((resolve, reject) => {
    const sent = request(url, { method, agent, headers: { authorization } }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part) => {
        text += part;
      });
      response.on('end', () => resolve({ status: response.statusCode, text })).on('error', reject);
    });
    sent.on('error', reject).end(body);
  });
}

async function loop() {
  for (;;) {
    const { status, text } = await call('GET', takeUrl.replace('$ID', id));
    if (status !== 200) continue;
    const job = JSON.parse(text);
    const url = doneUrl.replace('$RUNPOD_POD_ID', id).replace('$ID', job.id);
    await call('POST', url, JSON.stringify({ output: job.input }));
  }
}
for (let i = 0; i < Number(CONCURRENCY); i++) void loop();
