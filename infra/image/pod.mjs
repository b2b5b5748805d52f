// Started by commands.txt in a folder with only the code: installs the packages, then runs pod.ts.
import '../run/env-file.mjs';
import { install } from '../run/install.mjs';

install('--omit=dev', '--no-update-notifier');
const { register } = await import('tsx/esm/api');
register();
await import('./pod.ts');
