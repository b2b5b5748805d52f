/**
 * Stable Video Diffusion (Blattmann et al., arXiv:2311.15127): its four networks, run from the official files. Preconditioning, conditioning
 * and scales stay inside; samplers see latents only.
 */
import { createSlots } from '../../core/slots.ts';
import { usableMemory } from '../onnx/device.ts';
import type { SessionsOptions } from '../onnx/session-cache.ts';
import type { ClipRequest, ClipSize, Model } from './model.ts';
import { openClip, type SvdClip } from './svd/clip.ts';
import { type NetworkOptions, openNetworks, toJobError } from './svd/networks.ts';

export interface SvdModel extends Model {
  /** Waits until the clip that is open has been closed. */
  open(request: ClipRequest): Promise<SvdClip>;
  /** Opens the sessions for clips of one size, so that the first job does not wait for them. */
  preload(size: ClipSize & { decoding_t: number; steps: number }): Promise<void>;
  /** Frees the networks. */
  close(): Promise<void>;
}

/** Defaults: the processor, and as much memory as the machine allows. */
export type SvdOptions = Partial<SessionsOptions> & Pick<NetworkOptions, 'unet' | 'draftUnet'>;

/**
 * @param folder a model in the official layout: image_encoder, vae, unet, feature_extractor, each with its config and weights, in
 * single or half precision (`.fp16.safetensors`)
 * @throws WeightsError in one line: a missing or broken file, or a tensor that is missing or of another shape or type
 */
export function openSvd(folder: string, options: SvdOptions = {}): SvdModel {
  const { device = 'cpu', memory = usableMemory() } = options;
  const networks = openNetworks(folder, { ...options, device, memory });
  const enter = createSlots(1); // clips share the sessions, so one is open at a time

  return {
    check: networks.check,
    async open(request) {
      const leave = await enter(request.signal);
      try {
        return { ...(await openClip(networks, request)), close: async () => leave() };
      } catch (error) {
        leave();
        throw toJobError(error, request);
      }
    },
    async preload({ decoding_t, steps, ...size }) {
      await networks.clip();
      await networks.encoder(size);
      await networks.unet(size, decoding_t, steps);
      await networks.decoder({ ...size, T: networks.framesAtATime(size, decoding_t) });
    },
    samplingShare: 0.8,
    generative: true,
    device,
    close: networks.closeAll,
  };
}
