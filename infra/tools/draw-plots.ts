/** `npm run plots`: writes the documentation's plots to docs/plots. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { plots } from '../../api/docs/plots.ts';

const folder = fileURLToPath(new URL('../../docs/plots', import.meta.url));
await mkdir(folder, { recursive: true });
for (const [name, svg] of Object.entries(plots())) await writeFile(join(folder, `${name}.svg`), svg);
