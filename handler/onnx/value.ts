import type { ElementType } from './protobuf.ts';

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
