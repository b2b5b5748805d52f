/**
 * How little a picture's decoder may reach, in case a picture takes it over. In the order of preference:
 *
 *   namespaces    Linux with user namespaces. It sees read-only system libraries and its own code, no other file, no process and no
 *                 network, and has no capabilities
 *   another user  a process of root, as in a container without user namespaces: it runs as nobody, without capabilities, so only files
 *                 that everybody can read are open to it
 *   permissions   Node's permission model, which also holds in the other two: JavaScript reads only its own code, writes nothing and
 *                 starts nothing. Native code is not restricted
 *   none          where even that does not work
 */
import { createRequire } from 'node:module';
import { dirname } from 'node:path';

const SHARP = createRequire(import.meta.url).resolve('sharp');
const PACKAGES = SHARP.slice(0, SHARP.indexOf('/node_modules/') + '/node_modules'.length);
/** Without secrets. libvips keeps large pictures in memory, because it can't write files. */
export const DECODER_ENV = { SHARP, VIPS_DISC_THRESHOLD: '100g' };

/** Of the system; a folder such as /usr/src may hold secrets. */
const SYSTEM = '/bin /lib /lib64 /usr/bin /usr/lib /usr/lib64 /usr/local/lib';
const NO_CAPABILITIES = ['--no-new-privs', '--bounding-set=-all', '--inh-caps=-all'];

/**
 * Builds a new root folder in memory, with the files that are needed. Arguments: three paths, and the command.
 * The shell stays, because the first process of a PID namespace ignores signals such as SIGXCPU; it exits with 128 and the signal.
 */
const BUILD_ROOT = `set -e
root=/sys
mount -t tmpfs -o mode=755,size=1m tmpfs $root
for path in ${SYSTEM} "$1" "$2" "$3"; do
  if [ -e "$root$path" ] || [ ! -e "$path" ]; then continue; fi
  mkdir -p "$root\${path%/*}"
  if [ -L "$path" ]; then ln -s "$(readlink "$path")" "$root$path"; continue; fi
  if [ -d "$path" ]; then mkdir "$root$path"; else : > "$root$path"; fi
  mount --rbind "$path" "$root$path"
  mount -o remount,bind,ro,nosuid,nodev "$root$path"
done
mount -o remount,ro $root
cd $root
shift 3
chroot . "$@"
exit $?`;

export interface Sandbox {
  name: 'namespaces' | 'another user' | 'permissions' | 'none';
  /** the command that runs a program of Node with these arguments; the program sees its own folder */
  command: (program: string, args: string[]) => string[];
}

const permission = process.allowedNodeEnvironmentFlags.has('--permission')
  ? '--permission'
  : '--experimental-permission';
const node = (program: string, args: string[]) => [
  process.execPath,
  ...[
    permission,
    '--no-warnings',
    '--allow-addons',
    `--allow-fs-read=${dirname(program)}/`,
    `--allow-fs-read=${PACKAGES}/`,
  ],
  ...[program, ...args],
];

const namespaces = ['--user', '--map-root-user', '--net', '--pid', '--mount', '--ipc', '--uts'];

export const SANDBOXES: Sandbox[] = [
  {
    name: 'namespaces',
    command: (program, args) => [
      ...['unshare', ...namespaces, '--fork', '--kill-child', '/bin/sh', '-c', BUILD_ROOT, 'sh'],
      ...[process.execPath, dirname(program), PACKAGES],
      ...['setpriv', ...NO_CAPABILITIES, ...node(program, args)],
    ],
  },
  {
    name: 'another user',
    command: (program, args) => [
      ...['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', ...NO_CAPABILITIES],
      ...node(program, args),
    ],
  },
  { name: 'permissions', command: node },
  { name: 'none', command: (program, args) => [process.execPath, program, ...args] },
];
