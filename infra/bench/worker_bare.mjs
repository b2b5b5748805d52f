/**
 * What Node can do at best in `npm run bench -- worker`: loops that take, echo and post, without checks, pings, stops, retries or an
 * end. How far a worker runtime falls behind it is the price of those.
 */
const {
  RUNPOD_WEBHOOK_GET_JOB: take,
  RUNPOD_WEBHOOK_POST_OUTPUT: done,
  RUNPOD_AI_API_KEY: authorization,
  RUNPOD_POD_ID: id,
  CONCURRENCY,
} = process.env;
const takeUrl = take.replace('$ID', id);
const doneUrl = done.replace('$RUNPOD_POD_ID', id);
const headers = { authorization };

async function loop() {
  for (;;) {
    const response = await fetch(takeUrl, { headers });
    const text = await response.text();
    if (response.status !== 200) continue;
    const job = JSON.parse(text);
    const body = JSON.stringify({ output: job.input });
    const answer = await fetch(doneUrl.replace('$ID', job.id), { method: 'POST', headers, body });
    await answer.text();
  }
}
for (let i = 0; i < Number(CONCURRENCY); i++) void loop();
