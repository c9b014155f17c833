import { writeFile } from 'node:fs/promises';
import { basename } from 'node:path';
import type { ClipVisionConfig } from '../src/io/config.js';
import { readSafetensorsHeader } from '../src/io/safetensors.js';

/**
 * CLIP's vision tower as a real ONNX model (opset 20) for onnxruntime. Its weights are constants, so that the runtime can prepack them, and stay
 * where they are: initialisers point into the safetensors file, which lies beside the model.
 */

interface Tensor {
  readonly name: string;
  readonly dims: readonly number[];
  readonly offset: number;
  readonly length: number;
}

const FLOAT = 1;
const INT64 = 7;

type Attribute = { name: string } & (
  { type: 1; f: number } | { type: 2; i: number } | { type: 3; s: Uint8Array } | { type: 7; ints: number[] }
);

const attribute = {
  float: (name: string, f: number): Attribute => ({ name, type: 1, f }),
  int: (name: string, i: number): Attribute => ({ name, type: 2, i }),
  ints: (name: string, ints: number[]): Attribute => ({ name, type: 7, ints }),
};

class Builder {
  readonly nodes: object[] = [];
  readonly initializers: object[] = [];
  #count = 0;

  constructor(
    private readonly weightsFile: string,
    private readonly tensors: ReadonlyMap<string, Tensor>,
  ) {}

  weight(name: string): string {
    const tensor = this.tensors.get(name);
    if (!tensor) throw new Error(`the checkpoint has no ${name}`);
    if (!this.initializers.some((one) => (one as { name: string }).name === name)) {
      this.initializers.push({
        name,
        dims: tensor.dims,
        dataType: FLOAT,
        dataLocation: 1,
        externalData: [
          { key: 'location', value: basename(this.weightsFile) },
          { key: 'offset', value: String(tensor.offset) },
          { key: 'length', value: String(tensor.length) },
        ],
      });
    }
    return name;
  }

  integers(values: readonly number[]): string {
    const name = `shape_${values.join('_')}`;
    if (!this.initializers.some((one) => (one as { name: string }).name === name)) {
      const rawData = new Uint8Array(BigInt64Array.from(values, (value) => BigInt(value)).buffer);
      this.initializers.push({ name, dims: [values.length], dataType: INT64, rawData });
    }
    return name;
  }

  op(opType: string, input: readonly string[], attributes: readonly Attribute[] = [], outputs = 1): string {
    const output = Array.from({ length: outputs }, () => `v${this.#count++}`);
    this.nodes.push({ opType, input, output, attribute: attributes, name: `${opType}_${this.#count}` });
    return output[0] ?? '';
  }

  norm(x: string, prefix: string, epsilon: number): string {
    return this.op(
      'LayerNormalization',
      [x, this.weight(`${prefix}.weight`), this.weight(`${prefix}.bias`)],
      [attribute.int('axis', -1), attribute.float('epsilon', epsilon)],
    );
  }

  linear(x: string, prefix: string): string {
    const inputs = [x, this.weight(`${prefix}.weight`), this.weight(`${prefix}.bias`)];
    return this.op('Gemm', inputs, [attribute.int('transB', 1)]);
  }
}

/**
 * Writes the model.
 * @param weightsFile safetensors in f32 with Hugging Face's names, beside which `path` must lie
 * @param images size of the batch, which is fixed: the runtime plans its memory for it
 */
export async function exportClipVision(
  path: string,
  weightsFile: string,
  config: ClipVisionConfig,
  images: number,
): Promise<void> {
  const { default: { onnx } } = await import('onnx-proto'); // prettier-ignore
  const header = await readSafetensorsHeader(weightsFile);
  const tensors = new Map(
    [...header.tensors].map(([name, { shape, byteOffset, byteLength }]) => [
      name,
      { name, dims: shape, offset: byteOffset, length: byteLength },
    ]),
  );
  const b = new Builder(weightsFile, tensors);
  const {
    hiddenSize: width,
    numAttentionHeads: heads,
    imageSize,
    patchSize,
    layerNormEps,
    hiddenAct,
  } = config;
  const patches = Math.floor(imageSize / patchSize) ** 2;
  const tokens = patches + 1;
  const headDim = width / heads;
  const v = 'vision_model';

  const conv = b.op(
    'Conv',
    ['pixels', b.weight(`${v}.embeddings.patch_embedding.weight`)],
    [
      attribute.ints('kernel_shape', [patchSize, patchSize]),
      attribute.ints('strides', [patchSize, patchSize]),
    ],
  );
  const rows = b.op(
    'Transpose',
    [b.op('Reshape', [conv, b.integers([images, width, patches])])],
    [attribute.ints('perm', [0, 2, 1])],
  );
  const classToken = b.op('Expand', [
    b.weight(`${v}.embeddings.class_embedding`),
    b.integers([images, 1, width]),
  ]);
  const all = b.op('Concat', [classToken, rows], [attribute.int('axis', 1)]);
  const placed = b.op('Add', [all, b.weight(`${v}.embeddings.position_embedding.weight`)]);
  let x = b.norm(
    b.op('Reshape', [placed, b.integers([images * tokens, width])]),
    `${v}.pre_layrnorm`,
    layerNormEps,
  );
  for (let i = 0; i < config.numHiddenLayers; i++) {
    const layer = `${v}.encoder.layers.${i}`;
    const normed = b.norm(x, `${layer}.layer_norm1`, layerNormEps);
    const head = (name: string, perm: number[]): string =>
      b.op(
        'Transpose',
        [
          b.op('Reshape', [
            b.linear(normed, `${layer}.self_attn.${name}`),
            b.integers([images, tokens, heads, headDim]),
          ]),
        ],
        [attribute.ints('perm', perm)],
      );
    const [q, k, values] = [
      head('q_proj', [0, 2, 1, 3]),
      head('k_proj', [0, 2, 3, 1]),
      head('v_proj', [0, 2, 1, 3]),
    ];
    const scaled = b.op('Mul', [q, scalar(b, 1 / Math.sqrt(headDim))]);
    const attended = b.op('MatMul', [
      b.op('Softmax', [b.op('MatMul', [scaled, k])], [attribute.int('axis', -1)]),
      values,
    ]);
    const joined = b.op('Reshape', [
      b.op('Transpose', [attended], [attribute.ints('perm', [0, 2, 1, 3])]),
      b.integers([images * tokens, width]),
    ]);
    x = b.op('Add', [x, b.linear(joined, `${layer}.self_attn.out_proj`)]);
    const hidden = b.linear(b.norm(x, `${layer}.layer_norm2`, layerNormEps), `${layer}.mlp.fc1`);
    const active =
      hiddenAct === 'gelu'
        ? b.op('Gelu', [hidden])
        : b.op('Mul', [hidden, b.op('Sigmoid', [b.op('Mul', [hidden, scalar(b, 1.702)])])]);
    x = b.op('Add', [x, b.linear(active, `${layer}.mlp.fc2`)]);
  }
  b.nodes.push({
    opType: 'Reshape',
    input: [x, b.integers([images, tokens, width])],
    output: ['features'],
    name: 'features',
  });

  const value = (name: string, shape: readonly number[]): object => ({
    name,
    type: { tensorType: { elemType: FLOAT, shape: { dim: shape.map((dimValue) => ({ dimValue })) } } },
  });
  const model = onnx.ModelProto.create({
    irVersion: 10,
    producerName: 'omni-id benchmarks',
    opsetImport: [{ domain: '', version: 20 }],
    graph: {
      name: 'clip_vision',
      node: b.nodes,
      initializer: b.initializers,
      input: [value('pixels', [images, 3, imageSize, imageSize])],
      output: [value('features', [images, tokens, width])],
    },
  });
  await writeFile(path, onnx.ModelProto.encode(model).finish());
}

function scalar(b: Builder, number: number): string {
  const name = `scalar_${number}`;
  if (!b.initializers.some((one) => (one as { name: string }).name === name)) {
    b.initializers.push({
      name,
      dims: [],
      dataType: FLOAT,
      rawData: new Uint8Array(Float32Array.of(number).buffer),
    });
  }
  return name;
}
