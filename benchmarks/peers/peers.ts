import { execFileSync } from 'node:child_process';
import { mkdirSync, existsSync, linkSync, writeFileSync } from 'node:fs';
import { basename, join, relative } from 'node:path';
import { messageOf } from '../../src/errors.js';
import type { Context } from '../context.js';
import type { Part, Work } from '../contestants/protocol.js';
import { configOf, modelFolder, type Size } from '../fixtures.js';
import { exportOnnx } from '../onnx/export.js';
import { clipVisionConfigToJson } from '../../src/io/config.js';
import { findModule, importFrom, peersFolder, type Onnx } from './modules.js';

/** Somebody else's implementation, measured beside ours when it is there. */
export interface Peer {
  readonly name: string;
  readonly found: boolean;
  /** Its version and place, or why it is not there. */
  readonly detail: string;
  /** Element types that it computes models in, and the parts of the encoder that it can. Kernels are compared by peers without any. */
  readonly dtypes: readonly ('f32' | 'bf16')[];
  readonly parts: readonly Part[];
  /** Where its module is installed. */
  readonly folder?: string;
  /** What runs a contestant, where that is not our own child program. */
  readonly command?: string;
  readonly arguments?: readonly string[];
  /** Makes what the contestant needs, and says where it is. */
  prepare?(
    context: Context,
    work: { size: Size; part: Part; works: readonly Work[] },
  ): Promise<{ modelFolder: string }>;
}

const photosOf = (work: Work): number => work.identities.reduce((sum, n) => sum + n, 0);

async function onnx(): Promise<Onnx> {
  const found = findModule('onnx-proto');
  if (!found) throw new Error('onnx-proto is not installed');
  return (await importFrom(found.folder, 'onnx-proto'))['onnx'] as Onnx;
}

/** Modules that are not installed, with what to do. */
function missing(names: readonly string[]): string | undefined {
  const absent = names.filter((name) => !findModule(name));
  if (absent.length === 0) return undefined;
  return `${absent.join(' and ')} not installed: npm ci --ignore-scripts --prefix ${relative(process.cwd(), peersFolder)}, or npm install in your project`;
}

function onnxruntime(): Peer {
  const module = 'onnxruntime-node';
  const why = missing([module, 'onnx-proto']);
  const found = findModule(module);
  return {
    name: module,
    found: why === undefined,
    detail: why ?? `${found?.version}`,
    dtypes: ['f32'],
    parts: ['tokens', 'features', 'block'],
    folder: found?.folder ?? '',
    prepare: async (context, { size, part, works }) => {
      const folder = await modelFolder(size, context.log);
      for (const photos of new Set(works.map(photosOf))) {
        const path = join(folder, `${part}-${photos}.onnx`);
        await exportOnnx(await onnx(), path, join(folder, 'model.safetensors'), configOf(size), part, photos);
      }
      return { modelFolder: folder };
    },
  };
}

function transformersJs(): Peer {
  const module = '@huggingface/transformers';
  const why = missing([module, 'onnx-proto']);
  const found = findModule(module);
  return {
    name: 'transformers.js',
    found: why === undefined,
    detail: why ?? `${found?.version}`,
    dtypes: ['f32'],
    parts: ['features'],
    folder: found?.folder ?? '',
    // A local model as the library expects it: <name>/config.json and <name>/onnx/model.onnx, with the weights beside.
    prepare: async (context, { size, part, works }) => {
      const source = await modelFolder(size, context.log);
      const root = join(source, 'transformers.js');
      for (const photos of new Set(works.map(photosOf))) {
        const folder = join(root, `${part}-${photos}`);
        mkdirSync(join(folder, 'onnx'), { recursive: true });
        const config = { model_type: 'clip_vision_model', ...clipVisionConfigToJson(configOf(size).vision) };
        writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
        const weights = join(folder, 'onnx', 'model.safetensors');
        if (!existsSync(weights)) linkSync(join(source, 'model.safetensors'), weights);
        await exportOnnx(
          await onnx(),
          join(folder, 'onnx', 'model.onnx'),
          weights,
          configOf(size),
          part,
          photos,
        );
      }
      return { modelFolder: root };
    },
  };
}

function pytorch(): Peer {
  const python = process.env['OMNI_ID_PYTHON'];
  const peer = (found: boolean, detail: string): Peer => ({
    name: 'pytorch',
    found,
    detail,
    dtypes: ['f32', 'bf16'],
    parts: ['tokens', 'features', 'block'],
    command: python ?? '',
    arguments: [join(peersFolder, 'pytorch.py')],
  });
  if (python === undefined || python === '') {
    return peer(false, 'OMNI_ID_PYTHON does not name a Python with torch, transformers and safetensors');
  }
  try {
    const script =
      'import torch, transformers, safetensors; print(torch.__version__, "transformers", transformers.__version__)';
    return peer(
      true,
      execFileSync(python, ['-c', script], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }).trim(),
    );
  } catch (error) {
    const last = messageOf(error).trim().split('\n').at(-1) ?? '';
    return peer(false, `${basename(python)}: ${last}`);
  }
}

/** Kernels of a C++ library: found when its header is, compiled when they are needed (kernel_peer.cpp). */
function library(name: string, header: string): Peer {
  const peer = (found: boolean, detail: string): Peer => ({ name, found, detail, dtypes: [], parts: [] });
  try {
    execFileSync(process.env['CXX'] ?? 'c++', ['-E', '-x', 'c++', '-include', header, '/dev/null'], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    return peer(true, `${header} found`);
  } catch {
    return peer(false, `the compiler finds no ${header}`);
  }
}

/** The names of all peers, found or not. */
export const peerNames = ['onnxruntime-node', 'transformers.js', 'pytorch', 'onednn', 'openblas'] as const;

/** Looks for the peers. Those that are not in `names`, which may be left out, count as absent. */
export function findPeers(names: readonly string[]): Peer[] {
  const find: Record<(typeof peerNames)[number], () => Peer> = {
    'onnxruntime-node': onnxruntime,
    'transformers.js': transformersJs,
    pytorch,
    onednn: () => library('onednn', 'dnnl.hpp'),
    openblas: () => library('openblas', 'cblas.h'),
  };
  return peerNames.map((name): Peer => {
    if (names.length > 0 && !names.includes(name)) {
      return { name, found: false, detail: 'left out by --peer', dtypes: [], parts: [] };
    }
    return find[name]();
  });
}
