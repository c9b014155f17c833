// What nvcc and ptxas say of every kernel, for one architecture after the other.
import { execFile, execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/**
 * @typedef {object} Kernel
 * @property {string} unit file that it stands in, below native/cuda
 * @property {string} name with its template arguments
 * @property {number} architecture 80 for 8.0
 * @property {number} registers of a thread
 * @property {number} staticShared bytes of a block
 * @property {number | undefined} dynamicShared bytes of a block, 0 for a kernel without; undefined when the kernel does not say (expect_dynamic_shared)
 * @property {number} spills bytes of stores and loads
 * @property {number} stack bytes of a thread
 * @property {number | undefined} threads the most of a block, by __launch_bounds__; undefined when the kernel does not say
 * @property {number | undefined} expectedThreads the same, as the emulation knows it (expect_threads)
 */

/** `void a::(anonymous namespace)::f<float, (a::Kind)1>(…)` → `f<f32, 1>` */
function readable(demangled) {
  const text = demangled
    .replace(/\([^()]*anonymous namespace\)::/g, '')
    .replace(/\((?:[\w]+::)*\w+\)(?=\d)/g, '')
    .replace(/\b(?:\w+::)+/g, '')
    .replace(/^void /, '')
    .replaceAll('__nv_bfloat16', 'bf16')
    .replaceAll('float', 'f32');
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    if (text[i] === '<') depth++;
    if (text[i] === '>') depth--;
    if (text[i] === '(' && depth === 0) return text.slice(0, i);
  }
  return text;
}

/** Of the PTX's entries, by mangled name: threads, and dynamic shared memory. */
function notes(ptx) {
  const all = new Map();
  for (const entry of ptx.split(/(?=\.entry\s)/).slice(1)) {
    const name = /^\.entry\s+([\w$]+)/.exec(entry)?.[1] ?? '';
    const threads = /\.maxntid\s+(\d+)/.exec(entry)?.[1];
    const expected = /at most (\d+) threads/.exec(entry)?.[1];
    const said = /dynamic shared memory: (\d+) bytes/.exec(entry)?.[1];
    const uses = entry.includes('omni_id_dynamic_shared');
    all.set(name, {
      threads: threads === undefined ? undefined : Number(threads),
      expectedThreads: expected === undefined ? undefined : Number(expected),
      dynamicShared: said === undefined ? (uses ? undefined : 0) : Number(said),
    });
  }
  return all;
}

/**
 * Compiles a file of kernels as the package does (cmake/cuda.cmake).
 * @param {string} root of the package
 * @param {string} unit file below native/cuda
 * @param {number} architecture
 * @returns {Promise<Kernel[]>}
 */
export async function compile(root, unit, architecture) {
  const folder = mkdtempSync(join(tmpdir(), 'omni-id-cuda-report-'));
  try {
    const options = [
      '-std=c++20',
      '-O3',
      '--expt-relaxed-constexpr',
      '-Xptxas=-v',
      `-arch=sm_${architecture}`,
    ];
    const files = ['-Inative', '--keep', '--keep-dir', folder, '-cubin', '-o', join(folder, 'out.cubin')];
    const { stderr } = await run('nvcc', [...options, ...files, `native/cuda/${unit}`], {
      cwd: root,
      maxBuffer: 1 << 28,
    });
    const ptx = readdirSync(folder).find((name) => name.endsWith('.ptx'));
    if (ptx === undefined) throw new Error(`nvcc kept no PTX of ${unit}`);
    const ofPtx = notes(readFileSync(join(folder, ptx), 'utf8'));
    const found = stderr.split(/(?=ptxas info\s*: Compiling entry function)/).slice(1);
    const kernels = found.map((text) => {
      const number = (pattern) => Number(pattern.exec(text)?.[1] ?? 0);
      const mangled = /entry function '([^']+)'/.exec(text)?.[1] ?? '';
      return {
        unit,
        name: mangled,
        architecture,
        registers: number(/Used (\d+) registers/),
        staticShared: number(/(\d+) bytes smem/),
        spills: number(/(\d+) bytes spill stores/) + number(/(\d+) bytes spill loads/),
        stack: number(/(\d+) bytes stack frame/),
        threads: undefined,
        expectedThreads: undefined,
        dynamicShared: undefined,
        ...ofPtx.get(mangled),
      };
    });
    const names = execFileSync('c++filt', kernels.map(({ name }) => name), { encoding: 'utf8' }).split('\n'); // prettier-ignore
    return kernels.map((kernel, i) => ({ ...kernel, name: readable(names[i] ?? kernel.name) }));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
