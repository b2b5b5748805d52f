import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

/** Where onnxruntime looks for its providers: next to its own library. */
export const providerFolder = join(
  dirname(createRequire(import.meta.url).resolve('onnxruntime-node/package.json')),
  `bin/napi-v6/${process.platform}/${process.arch}`,
);
export const CUDA_PROVIDER = 'libonnxruntime_providers_cuda.so';
