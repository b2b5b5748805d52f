/** Our worker runtime in `npm run bench -- worker`: echoes. */
import { serve } from '../../handler/runpod/index.ts';

await serve(({ input }) => input, { concurrency: Number(process.env.CONCURRENCY) });
process.exit(0);
