// Our worker runtime in `npm run bench -- worker`, compiled as in the image: its handler returns the input.
import { serve } from '../dist/handler/runpod/index.js';

await serve(({ input }) => input, { concurrency: Number(process.env.CONCURRENCY) });
process.exit(0);
