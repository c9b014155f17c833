// The peers' modules, as far as the suite uses them: they are installed apart (benchmarks/package.json), and the types must check without.
declare module 'onnx-proto' {
  const exports: {
    onnx: { ModelProto: { create(model: object): object; encode(model: object): { finish(): Uint8Array } } };
  };
  export default exports;
}

declare module 'onnxruntime-node' {
  export class Tensor {
    constructor(type: 'float32', data: Float32Array, dims: readonly number[]);
    readonly data: Float32Array;
  }
  export const InferenceSession: {
    create(
      path: string,
      options: { intraOpNumThreads: number; graphOptimizationLevel: 'all' },
    ): Promise<{ run(feeds: Record<string, Tensor>): Promise<Record<string, Tensor>> }>;
  };
}
