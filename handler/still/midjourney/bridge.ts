/** A third-party Midjourney API: one file each, a function that returns this. */
export interface Bridge {
  readonly name: string;
  /** How long to wait between two looks at an imagine, in milliseconds: by the bridge's own rate limit. */
  readonly pollInterval: number;
  /**
   * Asks, and pays, for four pictures.
   * @param ref our own mark, which the bridge keeps with the imagine
   * @returns the bridge's id
   * @throws JobError: the bridge refused and nothing was paid. Anything else that is thrown leaves open whether it was.
   */
  imagine(prompt: string, ref: string, signal: AbortSignal): Promise<string>;
  /**
   * One look at an imagine.
   * @throws JobError: the imagine has failed. Anything else that is thrown: it can't be looked at now.
   */
  look(id: string, signal: AbortSignal): Promise<ImagineState>;
  /** Whether a picture's address may be reached although it is not public: it lies on the operator's own bridge. */
  trusts(url: URL): boolean;
}

export type ImagineState =
  | { done: false; progress: number }
  /** addresses of four pictures, or of one picture that is the 2×2 grid of them */
  | { done: true; pictures: string[] };
