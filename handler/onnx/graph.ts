/**
 * Writes ONNX graphs of fixed shapes. Each value knows its shape, so a mistake in the wiring shows while the graph is written. Weights are
 * not copied: they are external data at byte offsets in the official safetensors file.
 */
import { createBodies } from './graph/bodies.ts';
import { createConstants } from './graph/constants.ts';
import { countConstants, countOperations, peakBytes, schedule } from './graph/memory-plan.ts';
import { createOperators } from './graph/operators.ts';
import { PartedOperators } from './graph/parts.ts';
import { type Placement, placeConstants } from './graph/placement.ts';
import { joinTensors, splitTensors } from './graph/ports.ts';
import { type Body, type Node, Writer } from './graph/writer.ts';
import { POLICIES } from './policy.ts';
import { ELEMENT_BYTES, encodeModel, type OnnxNode, type OnnxValue } from './protobuf.ts';
import type { SafeTensors } from './safetensors.ts';
import { type GpuLimits, LEAST_LIMITS, type Policy, sizeOf, type Value } from './value.ts';

export interface GraphOptions {
  /** what the formulations suit; default prepacked */
  policy?: Policy;
  /** the precision of the computation, also if the weights are stored in another; default float32. Inputs and outputs are always float32. */
  precision?: 'float32' | 'float16';
  /** the device's, with the policy webgpu; default: what every WebGPU device allows */
  limits?: GpuLimits | undefined;
}

/** An input or an output, and the tensors that it consists of, whose numbers come one after the other. */
export interface Port extends OnnxValue {
  tensors: readonly OnnxValue[];
}
const tensorsOf = (ports: readonly Port[]) => ports.flatMap(({ tensors }) => tensors);

/**
 * @param weights the network's file
 * @example
 * const g = createGraph(weights);
 * g.output('y', g.add(g.input('x', [1, 320]), g.weight('conv_in.bias', [320])));
 * await openSession(g);
 */
export function createGraph(weights: SafeTensors, options: GraphOptions = {}) {
  const { policy = 'prepacked', precision = 'float32', limits = LEAST_LIMITS } = options;
  const inputs: Port[] = [];
  const outputs: Port[] = [];
  const webgpu = policy === 'webgpu';
  const writer = new Writer(POLICIES[policy].weightsAreInputs && (!webgpu || limits.half));
  const plain = createOperators(writer);
  const limit = webgpu ? limits.binding : Infinity; // bytes of a tensor
  const operators = webgpu ? { ...plain, ...new PartedOperators(plain, limit) } : plain;
  const { replaceableOne, ...constants } = createConstants(writer, operators, weights, precision);
  const bodies = createBodies(writer, operators, replaceableOne);

  return {
    policy,
    limits,
    once: writer.once,
    ...operators,
    ...constants,
    ...bodies,

    input(name: string, shape: readonly number[]): Value {
      const whole = { name, type: 'float32' as const, shape };
      const tensors: Value[] = [];
      const value = joinTensors(operators, whole, limit, (part) => {
        const own = part === shape ? name : `${name} ${tensors.length}`;
        const tensor = writer.known({ ...whole, name: own, shape: part });
        tensors.push(tensor);
        return operators.cast(tensor, precision);
      });
      inputs.push({ ...whole, tensors });
      return value;
    },
    output(name: string, value: Value): void {
      const values = splitTensors(operators, value, limit);
      const tensors = values.map((part, i) => {
        operators.map('Identity', operators.cast(part, 'float32'));
        const own = values.length === 1 ? name : `${name} ${i}`;
        writer.nodes.at(-1)!.outputs = [own];
        return writer.known({ name: own, type: 'float32', shape: part.shape });
      });
      outputs.push({ name, type: 'float32', shape: value.shape, tensors });
    },

    inputs: inputs as readonly Port[],
    outputs: outputs as readonly Port[],
    /** where the weights are */
    folder: weights.folder,
    /** Bytes of the weights that runs use, and of what is made of them once, in the precision that is computed in. */
    weightBytes: () => countConstants(writer) * ELEMENT_BYTES[precision],
    peakBytes: () =>
      peakBytes(
        schedule(writer).nodes,
        tensorsOf(outputs).map(({ name }) => name),
        writer.values,
      ),
    /** Bytes of the largest value, weights included. */
    largestBytes: () => Math.max(...[...writer.values.values(), ...writer.initializers].map(sizeOf)),
    countNodes: () => writer.nodes.length + writer.constantNodes.length,
    operations: () => countOperations(schedule(writer).nodes, writer.values),

    /** @returns the graph as an ONNX model */
    encode(): Uint8Array {
      const large = writer.initializers.find((one) => sizeOf(one) > limit);
      if (large) throw new Error(`the weight ${large.name}, [${large.shape}], exceeds the GPU’s largest tensor`);
      // Weights that are inputs too could be replaced by a caller. So onnxruntime folds nothing that is made of them: half-precision weights
      // stay in their file and are cast again in each run.
      const alsoInputs = writer.initializers.filter(
        (one) => writer.replaceable.has(one.name) || (writer.weightsAreInputs && 'external' in one),
      );
      const constantsOf = placeConstants(writer);
      return encodeModel({
        nodes: encodableNodes(writer.nodes, constantsOf),
        initializers: constantsOf().initializers,
        inputs: [...tensorsOf(inputs).map(withOpenShape), ...alsoInputs],
        outputs: tensorsOf(outputs).map(withOpenShape),
      });
    },
  };
}
export type Graph = ReturnType<typeof createGraph>;

/**
 * Leaves the first dimension for onnxruntime to find in each run. Where it knows all shapes it plans which value gets the memory of which
 * former one of its shape, and keeps that from the first to the last of them: three times what is needed at one time.
 */
const withOpenShape = (value: OnnxValue): OnnxValue => ({ ...value, shape: [-1, ...value.shape.slice(1)] });

/** The nodes of a graph or a body with their constants, bodies as attributes. */
function encodableNodes(nodes: readonly Node[], constantsOf: Placement, around?: Body): OnnxNode[] {
  const encodable = nodes.map(({ body, ...node }): OnnxNode => {
    if (!body) return node;
    const graph = {
      nodes: encodableNodes(body.nodes, constantsOf, body),
      initializers: constantsOf(body).initializers,
      inputs: body.input ? [withOpenShape(body.input)] : [],
      outputs: [withOpenShape(body.output)],
    };
    if (!body.otherwise) return { ...node, attributes: { ...node.attributes, body: { graph } } };
    const { otherwise } = body;
    const other = { nodes: [otherwise], outputs: [withOpenShape({ ...body.output, name: otherwise.name })] };
    return { ...node, attributes: { then_branch: { graph }, else_branch: { graph: other } } };
  });
  return [...constantsOf(around).nodes, ...encodable];
}
