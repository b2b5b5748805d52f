import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** Where Vitest has not yet seen how long files take, it begins with the largest. These are small and take long: they come before. */
const SLOW = /(image\/image|e2e\/(pod|chaos|openapi|demo|docs|svd|s3))\.test\.ts$/;

class SlowFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]) {
    const sorted = await super.sort(files);
    const isSlow = ({ moduleId }: TestSpecification) => SLOW.test(moduleId);
    return [...sorted.filter(isSlow), ...sorted.filter((file) => !isSlow(file))];
  }
}

export default defineConfig({
  test: {
    include: ['{core,handler,api,client,infra,test}/**/*.test.ts'],
    maxWorkers: 2, // else one on a machine with two cores, and most of these tests wait for processes
    sequence: { sequencer: SlowFirst },
    // For what hangs. What only takes long on a machine that is busy with other things is no failure.
    testTimeout: 60_000,
    hookTimeout: 60_000,
    reporters: process.env.TEST_REPORT ? ['default', ['json', { outputFile: process.env.TEST_REPORT }]] : ['default'],
  },
});
