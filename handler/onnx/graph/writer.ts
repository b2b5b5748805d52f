import type { Attribute, ElementType, OnnxInitializer, OnnxNode } from '../protobuf.ts';
import type { Value } from '../value.ts';

/** A graph within a node. It sees the values around it; of its own only the output is seen outside. */
export interface Body {
  nodes: readonly Node[];
  /** in a scan: the item that it runs for */
  input?: Value;
  output: Value;
  /** how often it runs */
  times: number;
  /** in a subgraph: what would stand in its place if its condition were false */
  otherwise?: OnnxNode;
}
export type Node = OnnxNode & { body?: Body };

export interface OpOptions {
  attributes?: Record<string, Attribute>;
  /** default: ONNX's own operators */
  domain?: '' | 'com.microsoft';
  /** of the result; default: the first operand's */
  type?: ElementType;
}

/**
 * What has been written of a graph. Nodes go to `nodes`, those of the graph or of the body that is being written. Those that are made of
 * weights and constants alone go to `constantNodes` instead: `placement.ts` puts each where it is used.
 */
export class Writer {
  nodes: Node[] = [];
  readonly constantNodes: OnnxNode[] = [];
  readonly initializers: OnnxInitializer[] = [];
  /** constants that are listed as inputs too */
  readonly replaceable = new Set<string>();
  /** all values, by name */
  readonly values = new Map<string, Value>();
  /** whose constants these are: a body's, or '' for the graph's */
  scope = '';
  #constantNames = new Set<string>();
  #shared = new Map<string, Value>();
  #count = 0;

  /** @param weightsAreInputs whether weights are listed as inputs too */
  constructor(readonly weightsAreInputs: boolean) {}

  newName(kind: string): string {
    return `${kind}_${this.#count++}`;
  }

  known(value: Value): Value {
    this.values.set(value.name, value);
    return value;
  }

  /** The value that was made under this key and in this scope before, else what `make` makes. */
  once = (key: string, make: () => Value): Value => {
    const found = this.#shared.get(this.scope + key) ?? make();
    this.#shared.set(this.scope + key, found);
    return found;
  };

  initialize(initializer: OnnxInitializer): Value {
    this.initializers.push(initializer);
    this.#constantNames.add(initializer.name);
    const { name, type, shape } = initializer;
    return { name, type, shape };
  }

  add(node: OnnxNode): void {
    const isConstant = node.inputs.every((name) => name === '' || this.#constantNames.has(name));
    if (isConstant) for (const name of node.outputs) this.#constantNames.add(name);
    (isConstant ? this.constantNodes : this.nodes).push(node);
  }

  /** One operator with one output. An operand that is undefined is an optional one left out. */
  op = (
    kind: string,
    operands: readonly (Value | undefined)[],
    shape: readonly number[],
    { attributes = {}, domain = '', type }: OpOptions = {},
  ): Value => {
    const name = this.newName(kind);
    const inputs = operands.map((value) => value?.name ?? '');
    this.add({ op: kind, domain, name, inputs, outputs: [name], attributes });
    return this.known({ name, shape, type: type ?? operands.find((value) => value)!.type });
  };

  /** What `make` makes in a scope of constants. */
  inScope<T>(scope: string, make: () => T): T {
    const around = this.scope;
    this.scope = scope;
    const made = make();
    this.scope = around;
    return made;
  }

  /** What `make` makes, as a body. */
  body(scope: string, make: () => Value): Pick<Body, 'nodes' | 'output'> {
    const around = this.nodes;
    const nodes: Node[] = [];
    this.nodes = nodes;
    const output = this.inScope(scope, make);
    this.nodes = around;
    return { nodes, output };
  }
}
