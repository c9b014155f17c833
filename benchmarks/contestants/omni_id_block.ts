import { join } from 'node:path';
import { Graph } from '../../src/graph/graph.js';
import { matchWeights, openCheckpoint, registerWeights } from '../../src/io/checkpoint.js';
import { parseOmniIdConfig, readJson } from '../../src/io/config.js';
import { encoderLayer } from '../../src/models/clip_vision.js';
import { newSession } from '../../src/models/model.js';
import { Scope } from '../../src/nn/scope.js';
import type { Task, Work } from './protocol.js';
import { inputsOf, type Loaded } from './serve.js';

/** The first layer of the CLIP tower by itself, on hidden states [photos · tokens, width]. */
export async function loadBlock(task: Task, peak: () => Promise<number>): Promise<Loaded> {
  const path = join(task.folder, 'config.json');
  const { vision } = parseOmniIdConfig(await readJson(path), path);
  const [tokens = 0, width = 0] = task.inputShape;
  const session = newSession({ device: task.device, threads: task.threads });
  const graphOf = (photos: number): Graph => {
    const graph = new Graph();
    const layer = new Scope(graph, task.dtype).at('vision_model').at('encoder').at('layers').at(0);
    const x = graph.input('x', 'f32', [photos * tokens, width]);
    graph.output('y', encoderLayer(layer, vision, x, photos));
    return graph;
  };
  const expected = graphOf(1).weights;
  const checkpoint = [...(await openCheckpoint(task.folder))].filter(([name]) => expected.has(name));
  registerWeights(session.weights, matchWeights(new Map(checkpoint), expected, task.folder));

  const compute = async (work: Work): Promise<Float32Array> => {
    const photos = inputsOf(task, work);
    const elements = photos.length * tokens * width;
    const [x, y] = [0, 1].map(() => session.tensor({ dtype: 'f32', shape: [photos.length * tokens, width] }));
    if (!x || !y) throw new Error('unreachable');
    for (const [i, photo] of photos.entries()) x.write(photo, i * tokens * width);
    const plan = await session.plan(`block ${photos.length}`, () => graphOf(photos.length));
    await session.run(plan, { x: { tensor: x, element: 0 }, y: { tensor: y, element: 0 } });
    const result = y.read(0, elements) as Float32Array;
    x.dispose();
    y.dispose();
    return result;
  };
  return {
    compute,
    flops: async (work) => {
      let flops = 0;
      session.onProfile = (steps) => {
        for (const step of steps) flops += step.flops;
      };
      await compute(work);
      session.onProfile = undefined;
      return flops;
    },
    ...(task.peakSeconds > 0 ? { peak } : {}),
  };
}
