import { ELEMENT_BYTES, type ElementType } from './protobuf.ts';

/** What flows between the operators of a graph. */
export interface Value {
  readonly name: string;
  readonly type: ElementType;
  readonly shape: readonly number[];
  /** A value that exceeds a GPU's largest binding exists as parts only, one after the other along an axis. */
  readonly parts?: { readonly axis: number; readonly values: readonly Value[] };
}

/**
 * Where the weights are while a network runs. prepacked: in memory, in the layouts that run fastest, with what is made of them once.
 * mapped: they stay in their files and come in page by page. cuda, webgpu: on the GPU.
 */
export type Policy = 'prepacked' | 'mapped' | 'cuda' | 'webgpu';

/** What a WebGPU device allows. */
export interface GpuLimits {
  /** bytes of the largest tensor that a kernel reads or writes */
  binding: number;
  /** whether shaders know half precision, so that half-precision weights need no copy in single precision */
  half: boolean;
}
/** What every WebGPU device allows (W3C WebGPU, "limits"). */
export const LEAST_LIMITS: GpuLimits = { binding: 2 ** 27, half: false };

/** The number of elements of a shape. */
export const product = (shape: readonly number[]) => shape.reduce((total, size) => total * size, 1);
/** Bytes that a value takes. */
export const sizeOf = ({ type, shape }: Pick<Value, 'type' | 'shape'>) => product(shape) * ELEMENT_BYTES[type];
