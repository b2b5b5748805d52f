/** `npm run bench -- NAME`: runs one benchmark; each prints ratios against a peer that is measured in the same run. */
const BENCHMARKS: Record<string, () => Promise<unknown>> = {
  svd: () => import('./svd.ts'),
  memory: () => import('./memory.ts'),
  api: () => import('./api.ts'),
  worker: () => import('./worker.ts'),
  idle: () => import('./idle.ts'),
};

const name = process.argv[2];
const run = name === undefined ? undefined : BENCHMARKS[name];
if (!run) {
  console.error(`npm run bench -- NAME, with one of: ${Object.keys(BENCHMARKS).join(', ')}`);
  process.exit(1);
}
await run();
