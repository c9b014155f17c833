// The README's examples run as they stand, and print what they say: `ts` blocks as modules (`// →` is the line that a console.log prints), lines
// of `sh` blocks that begin with `npx omni-id` as the built command.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const root = join(import.meta.dirname, '..');
const readme = readFileSync(join(root, 'README.md'), 'utf8');
const blocks = (language: string): string[] =>
  [...readme.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'))].map((match) => match[1] ?? '');

// A project that depends on the package.
const project = mkdtempSync(join(tmpdir(), 'omni-id-readme-'));
mkdirSync(join(project, 'node_modules/@types'), { recursive: true });
symlinkSync(root, join(project, 'node_modules/omni-id'));
symlinkSync(join(root, 'node_modules/@types/node'), join(project, 'node_modules/@types/node'));
symlinkSync(join(root, 'examples'), join(project, 'examples'));
writeFileSync(join(project, 'package.json'), JSON.stringify({ type: 'module' }));

async function run(...command: string[]): Promise<string> {
  const child = spawn(process.execPath, command, { cwd: project, timeout: 120_000 });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  const [code] = (await once(child, 'close')) as [number | null];
  assert.is(code, 0, `${command.join(' ')}\n${stdout}${stderr}`);
  return stdout;
}

/** File names of the examples; plain JavaScript runs without a loader. */
const examples = [
  ...blocks('ts').map((code, i) => ({
    file: `example-${i}.ts`,
    code,
    loader: ['--import', import.meta.resolve('tsx')],
  })),
  ...blocks('js').map((code, i) => ({ file: `example-${i}.js`, code, loader: [] })),
];

test('there are examples', () => {
  assert.ok(blocks('ts').length >= 4 && blocks('js').length >= 1);
});

for (const { file, code, loader } of examples) {
  writeFileSync(join(project, file), code);
  test(`${file} prints what it says`, async () => {
    const expected = [...code.matchAll(/\/\/ → (.*)$/gm)].map((match) => match[1]);
    assert.ok(expected.length > 0);
    const output = await run(...loader, file);
    assert.equal(output.trim().split('\n'), expected);
  });
}

test('the examples have no type errors', async () => {
  const options = { target: 'es2022', module: 'nodenext', strict: true, noEmit: true, lib: ['es2022', 'esnext.disposable'], types: ['node'] }; // prettier-ignore
  writeFileSync(join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions: options, files: examples.map(({ file }) => file).filter((file) => file.endsWith('.ts')) })); // prettier-ignore
  await run(join(root, 'node_modules/typescript/bin/tsc'), '-p', '.');
});

test('the commands run', async () => {
  const commands = blocks('sh').flatMap((block) => [...block.matchAll(/^npx omni-id (.*)$/gm)]);
  assert.ok(commands.length >= 4);
  for (const [, words = ''] of commands) {
    assert.ok((await run(join(root, 'dist/cli.js'), ...words.split(' '))).length > 0);
  }
});

test.after(() => {
  rmSync(project, { recursive: true, force: true });
});

test.run();
