/** The programs that the benchmarks compare with. Each is installed once, by pip, into the user's cache. */
import { type ChildProcessWithoutNullStreams, execFile, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { hasProgram } from '../infra/run/programs.ts';

const run = promisify(execFile);

/** The versions that test/reference made the tests' numbers with. */
const DIFFUSERS = [
  'torch==2.15.0',
  'diffusers==0.42.1',
  'transformers==5.24.0',
  'accelerate==1.15.0',
  'safetensors==0.8.0',
  'pillow==13.0.0',
  'DeepCache==0.1.1',
];

export const pathOf = (name: string) => fileURLToPath(new URL(name, import.meta.url));
export const SMALL_SVD = pathOf('../handler/models/testdata/small-svd');

/**
 * Finds or makes a Python that has these packages.
 * @returns its path; undefined, with the reason on standard error, where they cannot be installed
 */
export async function python(...packages: string[]): Promise<string | undefined> {
  try {
    const { stdout } = await run('bash', [pathOf('../test/support/python.sh'), ...packages]);
    return stdout.trim();
  } catch (error) {
    const reason = (error as Error).message.trim().split('\n').at(-1);
    console.error(`skipped: the peer ${packages[0]} can’t be installed (${reason})`);
    return undefined;
  }
}

/** The machine's ffmpeg, or the one of a Python package. */
export async function ffmpeg(): Promise<string | undefined> {
  if (hasProgram('ffmpeg')) return 'ffmpeg';
  const program = await python('imageio-ffmpeg==0.6.0');
  if (program === undefined) return undefined;
  const { stdout } = await run(program, ['-c', 'import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())']);
  return stdout.trim();
}

/** Returns a function that starts diffusers_peer.py on a model's folder; undefined where diffusers cannot be installed. */
export async function diffusers(): Promise<((folder: string) => Peer) | undefined> {
  const program = await python(...DIFFUSERS);
  return program === undefined ? undefined : (folder) => startPeer(program, [pathOf('diffusers_peer.py'), folder]);
}

/** What a peer runs, and with which settings. */
export interface PeerTask {
  run: string;
  H: number;
  W: number;
  T: number;
  threads: number;
  steps?: number;
  /** noise levels in place of `steps`, the last one 0 */
  sigmas?: number[];
  /** highest guidance scale; at 1 one branch runs */
  guidance?: number;
  /** features cached by DeepCache's own package: whole evaluations every `interval` steps, and the depth of the others */
  cache?: { interval: number; depth: number };
}

export type Peer = ReturnType<typeof startPeer>;

/** Starts a process that reads one PeerTask a line, as JSON, and answers each with a line `{"ms": …}`. */
export function startPeer(program: string, args: string[]) {
  const child: ChildProcessWithoutNullStreams = spawn(program, args);
  let errors = '';
  child.on('error', ({ message }) => (errors = message));
  child.stdin.on('error', () => {}); // it has ended: `run` reports that
  child.stderr.on('data', (text) => (errors = (errors + text).slice(-2000)));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    pid: child.pid,
    /** @returns the milliseconds that it took, without loading. @throws Error with the end of its standard error */
    async run(task: PeerTask): Promise<number> {
      child.stdin.write(`${JSON.stringify(task)}\n`);
      const { value, done } = await lines.next();
      if (done) throw new Error(`${program} ended early: ${errors.trim() || 'killed'}`);
      return JSON.parse(value).ms;
    },
    close: () => child.stdin.end(),
  };
}
