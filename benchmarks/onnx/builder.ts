import { writeFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { readSafetensorsHeader, type TensorEntry } from '../../src/io/safetensors.js';
import type { Onnx } from '../peers/modules.js';

// Numbers of ONNX's protobuf: element types, and kinds of attributes.
const FLOAT = 1;
const INT64 = 7;

type Attribute = { name: string } & (
  { type: 1; f: number } | { type: 2; i: number } | { type: 7; ints: readonly number[] }
);

export const attribute = {
  float: (name: string, f: number): Attribute => ({ name, type: 1, f }),
  int: (name: string, i: number): Attribute => ({ name, type: 2, i }),
  ints: (name: string, ints: readonly number[]): Attribute => ({ name, type: 7, ints }),
};

/** Where data of initialisers lies: `location` is relative to the model. */
interface Weights {
  readonly location: string;
  readonly tensors: ReadonlyMap<string, TensorEntry>;
}

/**
 * Puts an ONNX model together (opset 20), node by node. Weights are constants, so that a runtime can prepack them, and stay where they are:
 * initialisers point into the safetensors file, which must lie beside the model.
 */
export class OnnxBuilder {
  readonly #nodes: object[] = [];
  readonly #initializers = new Map<string, object>();
  #count = 0;

  private constructor(private readonly weights: Weights) {}

  /** @param weightsFile safetensors, f32 */
  static async open(weightsFile: string): Promise<OnnxBuilder> {
    const { tensors } = await readSafetensorsHeader(weightsFile);
    return new OnnxBuilder({ location: basename(weightsFile), tensors });
  }

  weight(name: string): string {
    const tensor = this.weights.tensors.get(name);
    if (!tensor) throw new Error(`the checkpoint has no ${name}`);
    this.#initializers.set(name, {
      name,
      dims: tensor.shape,
      dataType: FLOAT,
      dataLocation: 1,
      externalData: [
        { key: 'location', value: this.weights.location },
        { key: 'offset', value: String(tensor.byteOffset) },
        { key: 'length', value: String(tensor.byteLength) },
      ],
    });
    return name;
  }

  integers(values: readonly number[]): string {
    const name = `integers_${values.join('_')}`;
    const rawData = new Uint8Array(BigInt64Array.from(values, (value) => BigInt(value)).buffer);
    this.#initializers.set(name, { name, dims: [values.length], dataType: INT64, rawData });
    return name;
  }

  number(value: number): string {
    const name = `number_${value}`;
    const rawData = new Uint8Array(Float32Array.of(value).buffer);
    this.#initializers.set(name, { name, dims: [], dataType: FLOAT, rawData });
    return name;
  }

  /** @returns the name of the node's output, which may be chosen */
  op(
    opType: string,
    inputs: readonly string[],
    attributes: readonly Attribute[] = [],
    output?: string,
  ): string {
    const name = output ?? `v${this.#count++}`;
    this.#nodes.push({
      opType,
      input: inputs,
      output: [name],
      attribute: attributes,
      name: `${opType} ${name}`,
    });
    return name;
  }

  reshape(x: string, shape: readonly number[], output?: string): string {
    return this.op('Reshape', [x, this.integers(shape)], [], output);
  }

  transpose(x: string, order: readonly number[]): string {
    return this.op('Transpose', [x], [attribute.ints('perm', order)]);
  }

  layerNorm(x: string, prefix: string, epsilon: number): string {
    const inputs = [x, this.weight(`${prefix}.weight`), this.weight(`${prefix}.bias`)];
    return this.op('LayerNormalization', inputs, [
      attribute.int('axis', -1),
      attribute.float('epsilon', epsilon),
    ]);
  }

  /** x · Wᵀ + b for x [rows, inputs] */
  linear(x: string, prefix: string): string {
    const inputs = [x, this.weight(`${prefix}.weight`), this.weight(`${prefix}.bias`)];
    return this.op('Gemm', inputs, [attribute.int('transB', 1)]);
  }

  /** Writes the model. @throws an error of the system */
  async write(
    path: string,
    onnx: Onnx,
    input: { name: string; shape: readonly number[] },
    output: { name: string; shape: readonly number[] },
  ): Promise<void> {
    const value = ({ name, shape }: typeof input): object => ({
      name,
      type: { tensorType: { elemType: FLOAT, shape: { dim: shape.map((dimValue) => ({ dimValue })) } } },
    });
    const model = onnx.ModelProto.create({
      irVersion: 10,
      producerName: 'omni-id benchmarks',
      opsetImport: [{ domain: '', version: 20 }],
      graph: {
        name: 'omni-id',
        node: this.#nodes,
        initializer: [...this.#initializers.values()],
        input: [value(input)],
        output: [value(output)],
      },
    });
    await writeFile(path, onnx.ModelProto.encode(model).finish());
  }
}
