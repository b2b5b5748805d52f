/**
 * `npm run bench -- worker`: our worker runtime, RunPod's own for Python and a bare loop in Node by turns on one queue, each in a process
 * of its own. The queue is in this process, which does nothing else while jobs run, and its clock is the measure.
 */
import { deepEqual } from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Hono } from 'hono';
import { readFlags } from './flags.ts';
import { openQueue, runAll } from './queue.ts';
import { type Aim, python, type Row, row, tell } from './report.ts';
import { median, quantile } from './statistics.ts';

const flags = readFlags({
  rounds: { type: 'string', default: '3' },
  /** jobs queued at once; RunPod's own worker does one a second for each of its slots, and gets ten for each */
  jobs: { type: 'string', default: '200' },
  /** seconds of idleness over which the processor's time is counted */
  idle: { type: 'string', default: '5' },
});
const [rounds, jobs, idle] = [flags.rounds, flags.jobs, flags.idle].map(Number) as [number, number, number];
const CONCURRENCIES = [1, 10];
const CLOCK_TICK = 100; // of /proc's processor times, per second: USER_HZ on every Linux that Node runs on

interface Runtime {
  command: string[];
  /** how many jobs it gets */
  jobs(concurrency: number): number;
}

const file = (name: string) => fileURLToPath(new URL(name, import.meta.url));
execFileSync(process.execPath, [file('../infra/image/build.mjs')]); // ours as the image has it
const runtimes: Record<string, Runtime> = {
  ours: { command: [process.execPath, file('worker_ours.mjs')], jobs: () => jobs },
  bare: { command: [process.execPath, file('worker_bare.mjs')], jobs: () => jobs },
  ...(await python('runpod==1.12.0').then((program) => program && runpodsOwn(program))),
};
const names = Object.keys(runtimes);

/** What one life of a worker process shows. */
interface Life {
  /** milliseconds */
  start: number;
  jobsPerSecond: number;
  /** milliseconds from the queue's giving a job away to its having the outcome */
  p50: number;
  p95: number;
  /** milliseconds of the processor for each job */
  cpu: number;
  /** % of one core */
  idleCpu: number;
  /** MB, of all processes together; PSS counts a page that n share as an nth */
  rss: number;
  pss: number;
  /** milliseconds from SIGTERM; undefined where the worker knows no orderly end */
  exit: number;
}

const lives: { name: string; concurrency: number; life: Life }[] = [];
for (let round = 1; round <= rounds; round++) {
  for (const concurrency of CONCURRENCIES) {
    for (const name of names) {
      const { command, jobs } = runtimes[name]!;
      lives.push({ name, concurrency, life: await live(command, concurrency, jobs(concurrency)) });
    }
  }
}
print();
process.exit(0);

async function live([program, ...args]: string[], concurrency: number, count: number): Promise<Life> {
  let asked = () => {};
  const firstTake = new Promise<void>((resolve) => {
    asked = resolve;
  });
  const watch = new Hono().use(async (c, next) => {
    if (c.req.path.includes('/job-take')) asked();
    await next();
  });
  const { queue, env, close } = await openQueue(watch);

  const spawned = performance.now();
  const child = spawn(program!, args, {
    env: {
      ...env,
      PATH: process.env.PATH,
      HOME: tmpdir(), // RunPod's own worker would read a key from there
      CONCURRENCY: String(concurrency),
      RUNPOD_SKIP_AUTO_SYSTEM_CHECKS: 'true', // they reach for the internet
      RUNPOD_SKIP_GPU_CHECK: 'true',
      RUNPOD_LOG_LEVEL: 'ERROR',
    },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const gone = once(child, 'exit');
  await Promise.race([firstTake, gone.then(([code]) => Promise.reject(new Error(`${program} ended with ${code}`)))]);
  const start = performance.now() - spawned;
  await delay(500); // whatever else it does at its start

  const atStart = processorSeconds(child);
  const inputs = Array.from({ length: count }, (_, i) => ({ i }));
  const done = await runAll(queue, inputs);
  deepEqual(
    done.map(({ output }) => output),
    inputs,
  );
  const took = done.map(({ started, ended }) => ended - started);
  const seconds = (Math.max(...done.map(({ ended }) => ended)) - done[0]!.created) / 1000;

  await delay(1000); // the last answers, and what is done after them
  const before = processorSeconds(child);
  const cpu = (1000 * (before - atStart)) / count;
  const since = performance.now();
  await delay(idle * 1000);
  const idleCpu = (100 * (processorSeconds(child) - before)) / ((performance.now() - since) / 1000);
  const memory = processes(child).map(memoryOf);

  const told = performance.now();
  child.kill('SIGTERM');
  await gone;
  const exit = performance.now() - told;
  close();
  return {
    start,
    jobsPerSecond: count / seconds,
    p50: median(took),
    p95: quantile(took, 0.95),
    cpu,
    idleCpu,
    rss: memory.reduce((sum, { rss }) => sum + rss, 0),
    pss: memory.reduce((sum, { pss }) => sum + pss, 0),
    exit,
  };
}

function runpodsOwn(program: string): Record<string, Runtime> {
  return { python: { command: [program, file('worker_peer.py')], jobs: (concurrency) => 10 * concurrency } };
}

/** A child and all that it has started, as process ids. */
function processes({ pid }: ChildProcess): number[] {
  const parents = new Map<number, number>();
  for (const name of readdirSync('/proc')) {
    const stat = /^\d+$/.test(name) && fieldsOf(Number(name));
    if (stat) parents.set(Number(name), Number(stat[1]));
  }
  const all = [pid!];
  for (const one of all) for (const [child, parent] of parents) if (parent === one) all.push(child);
  return all;
}

/** /proc/PID/stat after the name, which may hold spaces: state, parent, … (proc(5) counts from 3). */
function fieldsOf(pid: number): string[] | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined; // it has ended
  }
}

/** Of a child and all that it has started. */
function processorSeconds(child: ChildProcess): number {
  const ticks = processes(child).map((pid) => {
    const stat = fieldsOf(pid);
    return stat ? Number(stat[11]) + Number(stat[12]) : 0; // utime, stime
  });
  return ticks.reduce((sum, each) => sum + each, 0) / CLOCK_TICK;
}

/** In MB. */
function memoryOf(pid: number): { rss: number; pss: number } {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const megabytes = (name: string) => (Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)![1]) * 1024) / 1e6;
  return { rss: megabytes('Rss'), pss: megabytes('Pss') };
}

function print() {
  const figures: { label: string; what: keyof Life; unit: string; aim?: Aim }[] = [
    { label: 'jobs', what: 'jobsPerSecond', unit: '/s', aim: { of: 'ratio', least: 200 } },
    { label: 'take → done, median', what: 'p50', unit: 'ms', aim: { of: 'ratio', most: 0.05 } },
    { label: 'take → done, 95 %', what: 'p95', unit: 'ms' },
    { label: 'processor a job', what: 'cpu', unit: 'ms' },
    { label: 'start → first take', what: 'start', unit: 'ms', aim: { of: 'ratio', most: 0.2 } },
    { label: 'idle, of a core', what: 'idleCpu', unit: '%' },
    { label: 'memory (RSS)', what: 'rss', unit: 'MB', aim: { of: 'ratio', most: 0.8 } },
    { label: 'memory (PSS)', what: 'pss', unit: 'MB' },
    { label: 'SIGTERM when idle → exit', what: 'exit', unit: 'ms' },
  ];
  const of = (name: string, concurrency: number, what: keyof Life) =>
    lives.flatMap((one) => (one.name === name && one.concurrency === concurrency ? [one.life[what]] : []));
  const rows: Row[] = [];
  for (const concurrency of CONCURRENCIES)
    for (const [i, { label, what, unit, aim }] of figures.entries())
      for (const peer of names.filter((name) => name !== 'ours')) {
        const isMain = i < 2; // beside the bare loop and with more in hand only these tell something new
        if (!isMain && (peer === 'bare' || concurrency > 1)) continue;
        const theirs = of(peer, concurrency, what);
        const rounds = of('ours', concurrency, what).map((ours, i) => ({ ours, theirs: theirs[i]! }));
        // Python takes a job a second for each slot: the more slots, the less of a difference.
        const isAimed = peer === 'python' && concurrency === 1;
        rows.push(
          row(`worker, ${concurrency} in hand: ${label}`, unit, rounds, { peer, ...(isAimed && aim && { aim }) }),
        );
      }
  tell(
    `Worker: trivial jobs queued at once, ${jobs} (RunPod’s own for Python, a job a second: 10 a slot), idle over ${idle} s, ${rounds} rounds.`,
    rows,
  );
}
