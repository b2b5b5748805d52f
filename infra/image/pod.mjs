// Where commands.txt hands over, in a folder with nothing but the code: installs what is missing, then hands over to pod.ts.
import { install } from '../run/install.mjs';

install('--omit=dev', '--no-update-notifier');
const { register } = await import('tsx/esm/api');
register();
await import('./pod.ts');
