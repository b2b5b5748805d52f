/**
 * Decodes pictures by the thousand, in a process of its own for the soak: with what the service's decoder does, but without a new
 * process for each, so that more can be tried and what libvips leaves behind adds up where it can be seen.
 *
 * In: {bytes, ...options of decode}. Out: {result} or {refused}, and rss in bytes.
 */
import { decode } from '../../core/picture/decode.mjs';

process.on('message', async ({ bytes, ...options }) => {
  const answer = await decode(bytes, options).then(
    (result) => ({ result }),
    (error) => ({ refused: error.message }),
  );
  process.send({ ...answer, rss: process.memoryUsage.rss() });
});
process.once('disconnect', () => process.exit());
