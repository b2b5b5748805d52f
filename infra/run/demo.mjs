// `npm run demo` on a machine with only Node and npm: installs the packages, then runs demo.ts.
import { install } from './install.mjs';

const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  console.error(`Node ${process.versions.node} is too old: 20.19 or newer is needed`);
  process.exit(1);
}
install();
const { register } = await import('tsx/esm/api');
register();
await import('./demo.ts');
