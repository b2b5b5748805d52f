/**
 * The picture soak's decoder process. It decodes as the service does, but thousands of pictures in one process: more can be tried, and
 * memory that libvips leaks adds up where it can be seen.
 *
 * Receives {bytes, ...options of decode}. Sends {result} or {refused}, with rss in bytes.
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
