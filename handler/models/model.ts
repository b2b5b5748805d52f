/** The interface of every model. Samplers see a clip only. */
import type { DenoiseBranch } from '../../core/guider.ts';
import type { JobInput, JobOutput } from '../../core/job.ts';

/** In pixels; T is the number of frames. */
export interface ClipSize {
  H: number;
  W: number;
  T: number;
}

/** What decides whether a worker can make a clip. */
export interface ClipNeeds extends ClipSize {
  /** the model whose UNet makes the clip; absent: the model's own */
  unet?: JobInput['unet'];
}

/** A job's parameters that a model needs. */
export interface ClipRequest extends ClipNeeds {
  /** the fitted still: W×H pixels, rgb24 */
  still: Still;
  /** frames a second */
  fps: number;
  /** amount of movement, 0–512 */
  motion_bucket_id: number;
  /** noise added to the still before it is encoded, 0–1 */
  cond_aug: number;
  /** frames decoded at a time */
  decoding_t: number;
  /** of the sampler */
  steps: number;
  /** steps from one whole evaluation of the network to the next, and the layers that run in every step; absent: every evaluation is whole */
  cache_interval?: number | undefined;
  cache_depth?: number | undefined;
  /** the video's random numbers; the model draws before the sampler */
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
  /** of the latents: frames, channels, height and width */
  readonly shape: readonly [T: number, C: number, h: number, w: number];
  /** E[x0 | x = x0 + sigma·noise], given the still if `conditional`; x and the result are flat arrays of `shape`. `step` is the sampler's. */
  denoise: DenoiseBranch;
  /** T frames of rgb24, W×H×3 bytes each, one at a time so that memory stays flat. */
  decode(x: Float32Array): AsyncIterable<Uint8Array>;
  /** parameters that were not met; complete when all frames are decoded */
  readonly warnings: JobOutput['warnings'];
  /** Frees what the clip holds. It may be called again. */
  close(): Promise<void>;
}

export interface Model {
  /** @throws JobError: the clip's UNet is missing, or a clip of this size does not fit into memory */
  check(clip: ClipNeeds): void;
  /** @throws JobError: memory ran out */
  open(request: ClipRequest): Promise<Clip>;
  /** the share of the work that is sampling, roughly, 0–0.9; the rest is decoding; for progress bars */
  readonly samplingShare: number;
  /** whether a network generates the pictures: such files are marked */
  readonly generative: boolean;
  /** what its networks run on; absent without networks */
  readonly device?: JobOutput['device'];
}
