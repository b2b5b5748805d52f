import { createSlots } from '../core/slots.ts';

/**
 * Locks the GPU, or the processor in its place, for one job of this process: it samples and decodes while others wait, fetch a still or
 * upload. Jobs get the GPU in the order of their requests.
 * @returns the function that unlocks it
 * @throws the signal's reason, if it aborts first
 */
export const lockGpu = createSlots(1);
