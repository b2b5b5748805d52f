/**
 * `npm run bench -- memory`: how much memory a model takes until it is ready, for one guided step and for one decoded chunk, against
 * diffusers with the same folder (the tests' small networks); and how soon a UNet of svd_xt's size is ready. Each side is a process of
 * its own, whose memory is read from /proc (Linux).
 */
import { memoryOf, numberFlags } from './measure.ts';
import { diffusers, type Peer, pathOf, SMALL_SVD, startPeer } from './peers.ts';
import { type Aim, type Report, row } from './report.ts';
import { makeSvdXt } from './svd-xt.ts';

const CHUNKS = [1, 7, 14]; // frames decoded at a time
const { H, W, T, threads } = numberFlags({ H: 576, W: 1024, T: 25, threads: 2 });

export async function run(): Promise<Report> {
  const aim: Aim = { of: 'ratio', most: 0.7 };
  const theirs = (await diffusers())?.(SMALL_SVD);
  const theirPeaks = theirs && (await peaks(theirs, CHUNKS));
  const compare = (what: string, of: number, ours: number | undefined, aim?: Aim) => {
    if (ours === undefined) throw new Error(`${what}: our process ended early`);
    const pair = { ours, ...(theirPeaks?.[of] && { theirs: theirPeaks[of] }) };
    return row(what, 'GiB', [pair], { peer: 'diffusers', aim });
  };
  const rows = [];
  for (const [i, count] of CHUNKS.entries()) {
    // One process for each size, as in a job: with the networks of its own size in memory, and no others.
    const [ready, step, decoded] = await peaks(startOurs(SMALL_SVD, count), [count]);
    if (i === 0) rows.push(compare('memory until ready', 0, ready), compare('memory, a guided step', 1, step, aim));
    rows.push(compare(`memory, ${count} frames decoded`, 2 + i, decoded, aim));
  }

  const made = makeSvdXt();
  const unet = startOurs(made.folder, 1);
  const { ms, peak } = await measurePeak(unet, 'unet', 14).finally(made.remove);
  unet.close();
  rows.push(
    row('UNet of svd_xt’s size ready, mapped', 's', [{ ours: ms / 1000 }], { aim: { of: 'ours', most: 1 } }),
    row('its memory then', 'GiB', [{ ours: peak }], { aim: { of: 'ours', most: 0.3 } }),
  );
  return {
    how: `Peak of a process’s own memory: ${W}×${H}, ${T} frames, ${threads} threads, small networks; a guided step is both branches.`,
    rows,
  };
}

const startOurs = (folder: string, decodingT: number) =>
  startPeer(process.execPath, ['--import', 'tsx', pathOf('memory_ours.ts'), folder, String(decodingT)]);

/** Peaks of loading, of a step and of decoding each chunk, GiB; fewer if the process ends early (it may run out of memory). */
async function peaks(peer: Peer, chunks: number[]): Promise<number[]> {
  const parts = [['load', T], ['step', T], ...chunks.map((count) => ['decode', Math.min(count, T)] as const)] as const;
  const all: number[] = [];
  try {
    for (const [run, frames] of parts) all.push((await measurePeak(peer, run, frames)).peak);
  } catch (error) {
    console.error((error as Error).message);
  }
  peer.close();
  return all;
}

/** @returns milliseconds, and the most GiB of anonymous memory that the process had meanwhile */
async function measurePeak(peer: Peer, run: string, frames: number): Promise<{ ms: number; peak: number }> {
  let peak = 0;
  const timer = setInterval(() => {
    peak = Math.max(peak, memoryOf(peer.pid!, 'RssAnon') / 2 ** 30);
  }, 20);
  try {
    const ms = await peer.run({ run, H, W, T: frames, threads });
    return { ms, peak };
  } finally {
    clearInterval(timer);
  }
}
