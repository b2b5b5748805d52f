/** `npm run soak -- NAME [flags]`: runs one long trial; it fails if anything is found. */
const SOAKS = ['pictures', 'chaos'];

const [name = '', ...args] = process.argv.slice(2);
if (!SOAKS.includes(name)) {
  console.error(`npm run soak -- NAME, with one of: ${SOAKS.join(', ')}`);
  process.exit(1);
}
const { soak } = await import(`./${name}.ts`);
process.exit((await soak(args)) ? 0 : 1);
