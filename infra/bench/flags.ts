import { fileURLToPath } from 'node:url';

/** Flags of every benchmark of the networks, for parseArgs. */
export const common = {
  /** a folder as for MODEL_DIR */
  model: {
    type: 'string',
    default: fileURLToPath(new URL('../../handler/models/testdata/small-svd', import.meta.url)),
  },
  threads: { type: 'string', default: '2' },
  /** a Python with torch and diffusers, for the peer */
  python: { type: 'string', default: process.env.PYTHON ?? 'python3' },
} as const;
