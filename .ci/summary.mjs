/**
 * Sums up the gate's test runs: what failed or was skipped, the ten slowest test files, and as the last line "N passed, N failed". A
 * skipped test counts as failed, because the gate has installed everything that tests need. Exits with 1 if anything failed.
 *
 * usage: summary.mjs STATUS REPORT STATUS REPORT CHECKS, the exit status and the JSON report of each run, and the status of the checks
 */
import { readFileSync } from 'node:fs';
import { relative } from 'node:path';

const [firstStatus, first, secondStatus, second, checks] = process.argv.slice(2);
let passed = checks === '0' ? 1 : 0;
let failed = 1 - passed;
const slowest = [];
for (const [status, path] of [
  [firstStatus, first],
  [secondStatus, second],
]) {
  const tests = [];
  for (const { name, message, startTime, endTime, assertionResults } of readReport(path)) {
    const file = relative(process.cwd(), name);
    slowest.push({ file, seconds: (endTime - startTime) / 1000 });
    if (message) console.log(`\n${file}: ${message}`);
    tests.push(...assertionResults.map((test) => ({ ...test, file })));
  }
  const others = tests.filter(({ status }) => status !== 'passed');
  for (const { file, fullName, status, failureMessages } of others)
    console.log(`\n${file}: ${fullName}: ${status}\n${failureMessages.join('\n')}`);
  passed += tests.length - others.length;
  failed += others.length;
  // Something failed that is no test: the installation, or a file that cannot be loaded.
  if (tests.length === 0 || (status !== '0' && others.length === 0)) failed++;
}

console.log('\nThe slowest test files:');
for (const { file, seconds } of slowest.toSorted((a, b) => b.seconds - a.seconds).slice(0, 10))
  console.log(`${seconds.toFixed(1).padStart(7)} s  ${file}`);
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed > 0 ? 1 : 0;

function readReport(path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8')).testResults;
  } catch {
    console.log(`the tests left no report at ${path}`);
    return [];
  }
}
