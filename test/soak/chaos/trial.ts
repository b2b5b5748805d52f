import type { TestProcess } from '../../e2e/child-process.ts';
import type { ApiProcess, Harness } from '../../e2e/harness.ts';
import type { Observations } from './observations.ts';
import type { Owner } from './owners.ts';

/** What all parts of a chaos trial use. */
export interface Trial {
  harness: Harness;
  observations: Observations;
  owners: Owner[];
  /** the processes that run now */
  running: { api: () => ApiProcess[]; worker: () => TestProcess[] };
  /** random numbers for one purpose, so that one more for one purpose leaves the others as they are */
  stream: (purpose: string) => () => number;
  /** milliseconds by the fast clock */
  now: () => number;
  /** the real time at one of the fast clock's; milliseconds */
  realTime: (ms: number) => number;
}
