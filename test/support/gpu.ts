/** A GPU for tests, with Vulkan: the machine's, or the software driver that `.ci/run` installs. Without one the tests that need it are skipped. */
import { existsSync } from 'node:fs';

export const hasGpu = process.env.VK_DRIVER_FILES !== undefined || existsSync('/usr/share/vulkan/icd.d/lvp_icd.json');
/** A suffix for the titles of tests. */
export const skipped = hasGpu ? '' : ' (no Vulkan driver: skipped)';
if (!hasGpu) console.warn('no Vulkan driver: tests that need a GPU are skipped');
