import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['handler/**/*.test.ts', 'api/**/*.test.ts', 'infra/**/*.test.ts'],
    maxWorkers: 2, // else one on a machine with two cores, and most of these tests wait for processes
    testTimeout: 20_000,
    hookTimeout: 30_000,
    reporters: process.env.TEST_REPORT ? ['default', ['json', { outputFile: process.env.TEST_REPORT }]] : ['default'],
  },
});
