import { ELEMENT_BYTES, type ElementType } from './protobuf.ts';

/** What flows between the operators of a graph. */
export interface Value {
  readonly name: string;
  readonly type: ElementType;
  readonly shape: readonly number[];
}

/**
 * Where the weights are while a network runs. prepacked: in memory, in the layouts that run fastest, with what is made of them once.
 * mapped: they stay in their files and come in page by page. cuda: on the GPU.
 */
export type Policy = 'prepacked' | 'mapped' | 'cuda';

/** The number of elements of a shape. */
export const product = (shape: readonly number[]) => shape.reduce((total, size) => total * size, 1);
/** Bytes that a value takes. */
export const sizeOf = ({ type, shape }: Pick<Value, 'type' | 'shape'>) => product(shape) * ELEMENT_BYTES[type];
