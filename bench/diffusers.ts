/** diffusers on torch, the peer of the networks' benchmarks. */
import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { python, say } from './report.ts';

/** What infra/reference made the tests' numbers with. */
const PACKAGES = [
  'torch==2.15.0',
  'diffusers==0.42.1',
  'transformers==5.24.0',
  'accelerate==1.15.0',
  'safetensors==0.8.0',
  'pillow==13.0.0',
];

/**
 * The Python with torch and diffusers.
 * @param own a Python that has them; else they are installed, some GB, once
 * @returns undefined, and a word on standard error, where there is none
 */
export async function diffusersPython(own: string | undefined): Promise<string | undefined> {
  if (own === undefined) return python(...PACKAGES);
  if (spawnSync(own, ['-c', 'import torch, diffusers, transformers']).status === 0) return own;
  say(`skipped: the peer, for ${own} has no torch and diffusers`);
  return undefined;
}

export type Peer = ReturnType<typeof openPeer>;

/** svd_peer.py in a process of its own. */
export function openPeer(program: string, folder: string) {
  const script = fileURLToPath(new URL('svd_peer.py', import.meta.url));
  const child: ChildProcessWithoutNullStreams = spawn(program, [script, folder]);
  let complaint = '';
  child.stderr.on('data', (text) => {
    complaint = (complaint + text).slice(-2000);
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    /** @returns milliseconds that it took, without what was loaded for it. @throws Error with its complaint */
    async run(task: { run: string; H: number; W: number; T: number; steps: number; threads: number }): Promise<number> {
      child.stdin.write(`${JSON.stringify(task)}\n`);
      const { value, done } = await lines.next();
      if (done) throw new Error(`the peer ended: ${complaint}`);
      return JSON.parse(value).ms;
    },
    close: () => child.stdin.end(),
  };
}
