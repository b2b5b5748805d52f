/** Linear layers. */
import type { Formulations } from './types.ts';

export const fusedMatMul: Formulations['linear'] = (g, x, weight, bias) => {
  const shape = [x.shape[0]!, weight.shape[0]!];
  const y = g.op('FusedMatMul', [x, weight], shape, { domain: 'com.microsoft', attributes: { transB: 1 } });
  return bias ? g.add(y, bias) : y;
};

export const gemm: Formulations['linear'] = (g, x, weight, bias) => {
  const operands = bias ? [x, weight, bias] : [x, weight];
  return g.op('Gemm', operands, [x.shape[0]!, weight.shape[0]!], { attributes: { transB: 1 } });
};
