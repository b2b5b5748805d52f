/**
 * Evaluations of the UNet with cached features (DeepCache: Ma et al., arXiv:2312.00858). Steps are grouped in cycles of `interval`. The
 * first step of a cycle runs the whole network and keeps a feature for each branch of guidance; the others run the shallow form with it.
 */
import type { Session } from '../../onnx/session.ts';

/** How a clip uses cached features. */
export interface FeatureCache {
  /** steps of a cycle, ≥ 2 */
  interval: number;
  /** layers on the way up that run in every step, ≥ 1 */
  depth: number;
}

/** The UNet's sessions. Without `shallow` every evaluation is whole, and nothing is kept. */
export interface UnetSessions {
  whole: Session;
  shallow?: Session;
}

/** One clip's features, by branch: `true` is the conditional one. */
export type Features = Map<boolean, { cycle: number; feature: Float32Array }>;

/**
 * One branch's v. All evaluations of one step are alike, as with Heun's method. A branch that was not evaluated in this cycle runs whole: its
 * feature is missing, or too old.
 * @param step of the sampler, from 0
 */
export async function evaluate(
  { whole, shallow }: UnetSessions,
  inputs: Record<string, Float32Array>,
  features: Features,
  { conditional, step, interval }: { conditional: boolean; step: number; interval: number },
): Promise<Float32Array> {
  if (!shallow) return whole.run(inputs);
  const cycle = Math.floor(step / interval);
  const kept = features.get(conditional);
  if (step % interval !== 0 && kept?.cycle === cycle) return shallow.run({ ...inputs, feature: kept.feature });
  features.delete(conditional); // its memory is free for the run
  const [v, feature] = await whole.runAll(inputs);
  features.set(conditional, { cycle, feature: feature! });
  return v!;
}
