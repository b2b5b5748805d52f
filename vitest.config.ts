import { configDefaults, defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** The whole system: its processes together, the image, a pod. */
const E2E = ['test/e2e/**/*.test.ts', 'infra/image/image.test.ts'];

/** Tests that start another program (a process of ours, a database, an S3 server, Python), or compute for long. */
const INTEGRATION = [
  'api/http/read-body.test.ts',
  'api/routes/{malicious-upload,store-down}.test.ts',
  'api/store/*.test.ts',
  'client/{cli,package}.test.ts',
  'core/bucket/s3*.test.ts',
  'core/picture/*.test.ts',
  'core/standard-output.test.ts',
  'handler/models/{camera-oracle,svd*,svd/*}.test.ts',
  'handler/onnx/**/*.test.ts',
  'handler/{draft,pipeline}.test.ts',
  'handler/runpod/{conformance,process}*.test.ts',
  'handler/still/bridges/*.test.ts',
  'infra/deploy/*.test.ts',
  'infra/run/*.test.ts',
  'infra/simulators/python-client.test.ts',
  'infra/tools/{bucket,cuda,models}*.test.ts',
  'test/soak/**/*.test.ts',
];

/** Small files that take long. Vitest starts with the largest files as long as it does not know how long each takes. */
const SLOW =
  /(image\/image|e2e\/(pod|chaos|openapi|demo|docs(-pages)?|svd|s3)|models\/svd-memory|onnx\/webgpu)\.test\.ts$/;

/** Compiles the programs that tests start. */
const PROGRAMS = ['test/support/programs.ts'];

class SlowFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]) {
    const sorted = await super.sort(files);
    const isSlow = ({ moduleId }: TestSpecification) => SLOW.test(moduleId);
    return [...sorted.filter(isSlow), ...sorted.filter((file) => !isSlow(file))];
  }
}

const project = (name: string, include: string[], exclude: string[] = [], globalSetup: string[] = []) => ({
  extends: true as const,
  test: { name, include, exclude: [...configDefaults.exclude, ...exclude], globalSetup },
});

export default defineConfig({
  test: {
    projects: [
      project('unit', ['{core,handler,api,client,infra,test}/**/*.test.ts'], [...INTEGRATION, ...E2E]),
      project('integration', INTEGRATION, E2E, PROGRAMS),
      project('e2e', E2E, [], PROGRAMS),
    ],
    setupFiles: ['test/support/patient-waits.ts'],
    expect: { poll: { timeout: 50_000 } },
    maxWorkers: 3, // Vitest's default on two cores is one, and most of these tests wait for processes
    sequence: { sequencer: SlowFirst },
    testTimeout: 60_000, // for what hangs; a busy machine alone makes no test fail
    hookTimeout: 60_000,
    reporters: process.env.TEST_REPORT ? ['default', ['json', { outputFile: process.env.TEST_REPORT }]] : ['default'],
  },
});
