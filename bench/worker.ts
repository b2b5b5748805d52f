/**
 * `npm run bench -- worker`: our worker runtime and RunPod's own for Python, alternating on one queue, each a process of its own. The queue
 * is in this process, which does nothing else while jobs run; its clock is the measure.
 */
import { deepEqual } from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { Hono } from 'hono';
import { memoryOf, numberFlags } from './measure.ts';
import { pathOf, python } from './peers.ts';
import { openQueue, runAll } from './queue.ts';
import { type Figure, figureRows, median, type Report } from './report.ts';

/** Concurrency is that of both workers. RunPod's own takes one job a second for each slot; it gets ten for each. */
const { rounds, jobs, concurrency } = numberFlags({ rounds: 3, jobs: 200, concurrency: 1 });
const PEER_JOBS = 10 * concurrency;

/** What one life of a worker process shows. */
interface Life {
  jobsPerSecond: number;
  /** median of the milliseconds from the queue's giving a job away to its having the outcome */
  takeToDone: number;
  /** milliseconds from the start to the first take */
  start: number;
  /** resident memory of all its processes, MB */
  memory: number;
}

const FIGURES: Figure<Life>[] = [
  { what: 'jobsPerSecond', label: 'worker: jobs', unit: '/s', aim: { of: 'ratio', least: 200 } },
  { what: 'takeToDone', label: 'worker: take → done, median', unit: 'ms', aim: { of: 'ratio', most: 0.05 } },
  { what: 'start', label: 'worker: start → first take', unit: 'ms', aim: { of: 'ratio', most: 0.2 } },
  { what: 'memory', label: 'worker: memory (RSS)', unit: 'MB', aim: { of: 'ratio', most: 0.8 } },
];

export async function run(): Promise<Report> {
  execFileSync(process.execPath, [pathOf('../infra/image/build.mjs')]); // ours as the image has it
  const program = await python('runpod==1.12.0');
  const lives = [];
  for (let round = 0; round < rounds; round++) {
    const ours = await measureLife([process.execPath, pathOf('worker_ours.mjs')], jobs);
    const theirs = program ? await measureLife([program, pathOf('worker_peer.py')], PEER_JOBS) : undefined;
    lives.push({ ours, theirs });
  }
  return {
    how: `Worker, concurrency ${concurrency}: ${jobs} trivial jobs queued at once (${PEER_JOBS} for RunPod’s own), ${rounds} rounds.`,
    rows: figureRows(FIGURES, lives, 'RunPod’s for Python'),
  };
}

async function measureLife([program, ...args]: [string, string], count: number): Promise<Life> {
  const events = new EventEmitter();
  const firstTake = once(events, 'take');
  const watch = new Hono().use(async (c, next) => {
    if (c.req.path.includes('/job-take')) events.emit('take');
    await next();
  });
  const { queue, env, close } = await openQueue(watch);

  const spawned = performance.now();
  const child = spawn(program, args, {
    env: {
      ...env,
      PATH: process.env.PATH,
      HOME: tmpdir(), // RunPod's own worker would read a key from there
      CONCURRENCY: String(concurrency),
      RUNPOD_SKIP_AUTO_SYSTEM_CHECKS: 'true', // they need the internet
      RUNPOD_SKIP_GPU_CHECK: 'true',
      RUNPOD_LOG_LEVEL: 'ERROR',
    },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const exited = once(child, 'exit');
  const failed = exited.then(([code]) => Promise.reject(new Error(`${program} ended with ${code}`)));
  await Promise.race([firstTake, failed]);
  const start = performance.now() - spawned;
  await delay(500); // until its start is complete

  const inputs = Array.from({ length: count }, (_, i) => ({ i }));
  const done = await Promise.race([runAll(queue, inputs), failed]);
  deepEqual(
    done.map(({ output }) => output),
    inputs,
  );
  const seconds = (Math.max(...done.map(({ ended }) => ended)) - done[0]!.created) / 1000;
  const memory = processTree(child.pid!).reduce((sum, pid) => sum + memoryOf(pid, 'VmRSS') / 1e6, 0);
  failed.catch(() => {}); // from here on it shall end
  child.kill('SIGTERM');
  await exited;
  await close();
  return {
    start,
    jobsPerSecond: count / seconds,
    takeToDone: median(done.map(({ started, ended }) => ended - started)),
    memory,
  };
}

/** Ids of a process and of all that it has started. */
function processTree(pid: number): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);
  return [pid, ...children.flatMap(processTree)];
}
