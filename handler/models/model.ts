/** The interface that samplers drive, and that every model fits. */
import type { JobOutput } from '../../core/job.ts';

/** In pixels; T is the number of frames. */
export interface ClipSize {
  H: number;
  W: number;
  T: number;
}

/** What a model needs to know of a job, besides the still. */
export interface ClipRequest extends ClipSize {
  /** the fitted still: W×H pixels, rgb24, or larger with the same aspect where the model can use it */
  still: Still;
  /** frames a second */
  fps: number;
  /** how much movement, 0–512 */
  motion_bucket_id: number;
  /** noise added to the still before it is encoded, 0–1 */
  cond_aug: number;
  /** frames decoded at a time */
  decoding_t: number;
  /** how many the sampler will take */
  steps: number;
  /** the video's random numbers, from which the model draws first */
  randn: (n: number) => Float32Array;
  signal: AbortSignal;
}

/** Pixels in memory: rgb24, rows from the top, no padding. */
export interface Still {
  data: Uint8Array;
  width: number;
  height: number;
}

/** One still opened for the sampling of one video. */
export interface Clip {
  /** of the latents: frames, channels, and height and width divided by 8 */
  readonly shape: readonly [T: number, C: number, h: number, w: number];
  /** E[x0 | x = x0 + sigma·noise], given the still or not; x and the answer are flat arrays of `shape`. */
  denoise(x: Float32Array, sigma: number, conditional: boolean): Promise<Float32Array>;
  /** T frames of rgb24, W×H×3 bytes each, one at a time so that memory stays flat. */
  decode(x: Float32Array): AsyncIterable<Uint8Array>;
  /** what the caller should know of how the frames were made; complete when all are decoded */
  readonly warnings: JobOutput['warnings'];
  /** Frees what the clip holds; it can't be used afterwards. May be called again. */
  close(): Promise<void>;
}

export interface Model {
  /** @throws JobError: a clip of this size never fits into memory */
  check(size: ClipSize): void;
  /** @throws JobError: memory ran out */
  open(request: ClipRequest): Promise<Clip>;
  /** how much larger than the frame a fitted still may be, ≥ 1 (a zoom stays sharp) */
  readonly stillScale: number;
  /** roughly which part of the work is sampling, 0–0.9; the rest is decoding. For progress bars. */
  readonly samplingShare: number;
  /** whether a network invents what is seen: such files are marked */
  readonly generative: boolean;
}
