/** `npm run soak -- NAME [flags]`: runs one long trial; it fails if anything is found. */
const SOAKS: Record<string, () => Promise<{ soak(args: string[]): Promise<boolean> }>> = {
  pictures: () => import('./pictures.ts'),
  chaos: () => import('./chaos.ts'),
};

const [name, ...args] = process.argv.slice(2);
const load = name === undefined ? undefined : SOAKS[name];
if (!load) {
  console.error(`npm run soak -- NAME, with one of: ${Object.keys(SOAKS).join(', ')}`);
  process.exit(1);
}
const { soak } = await load();
process.exit((await soak(args)) ? 0 : 1);
