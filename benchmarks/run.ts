import { writeFileSync } from 'node:fs';
import { constants as osConstants } from 'node:os';
import { native } from '../src/bindings.js';
import { messageOf } from '../src/errors.js';
import { checkWritable } from '../src/io/files.js';
import type { BenchOptions } from './command.js';
import { Context, type Suite } from './context.js';
import { findCuda } from './cuda.js';
import { findPeers, peerNames } from './peers/peers.js';
import { ratioLines, report } from './report.js';
import { newResults } from './results.js';
import { suites } from './suites/suites.js';
import { checkName, UsageError } from './usage_error.js';

function chosen(options: BenchOptions): Suite[] {
  const names = suites.map(({ name }) => name);
  for (const name of options.suite) checkName('suite', name, names);
  for (const name of options.peer) checkName('peer', name, [...peerNames, 'none']);
  const picked = suites.filter(({ name }) => options.suite.length === 0 || options.suite.includes(name));
  for (const name of options.only)
    checkName(
      'name',
      name,
      picked.flatMap((suite) => suite.names),
    );
  return options.only.length === 0
    ? picked
    : picked.filter((suite) => suite.names.some((name) => options.only.includes(name)));
}

/** Found out before minutes of measuring. */
async function checkFile(path: string | undefined): Promise<void> {
  if (path === undefined) return;
  await checkWritable(path, `cannot write ${path}`).catch((error: unknown) => {
    throw new UsageError(messageOf(error));
  });
}

const endings = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

const isRatio = (name: string): boolean =>
  suites.some((suite) => ['encoder', 'training'].includes(suite.name) && suite.names.includes(name));

/** What one suite cannot do must not cost the results of the others. */
function failed(context: Context, { name: suite }: Suite, error: unknown): void {
  const text = messageOf(error);
  const note = text.trim().split('\n').slice(-4).join(' ');
  context.add({
    suite,
    name: 'the suite',
    contestant: 'omni-id',
    status: 'failed',
    note,
    unit: 's',
    cold: [],
    warm: [],
  });
}

/**
 * Runs the chosen suites, prints the tables and writes the files.
 * @returns whether every row is right
 * @throws {UsageError}
 */
export async function runSuites(options: BenchOptions, log: (message: string) => void): Promise<boolean> {
  const picked = chosen(options);
  const quick = options.quick ?? false;
  const { threads = native().availableParallelism(), rounds = Infinity, preset } = options;
  // What was measured, not where on somebody's disk it went.
  const { json, markdown, ...given } = options;
  const cuda = findCuda(options.device);
  await checkFile(json);
  await checkFile(markdown);
  const results = await newResults({ quick, threads, cuda: cuda.detail, given });
  const peers = findPeers(options.peer);
  results.peers.push(...peers.map(({ name, found, detail }) => ({ name, found, detail })));
  const settings = { quick, threads, rounds, preset, only: options.only, cuda: cuda.places };
  const context = new Context(settings, results, peers, log);
  // What does not name its device is measured on the CPU, in our processes as in those that we start.
  const preferred = process.env['OMNI_ID_DEVICE'];
  process.env['OMNI_ID_DEVICE'] = 'cpu';
  const end = (signal: NodeJS.Signals): void => {
    context.dispose();
    process.exit(128 + osConstants.signals[signal]);
  };
  for (const signal of endings) process.once(signal, end);
  try {
    for (const suite of picked) {
      await suite.run(context).catch((error: unknown) => {
        failed(context, suite, error);
      });
    }
  } finally {
    for (const signal of endings) process.off(signal, end);
    if (preferred === undefined) delete process.env['OMNI_ID_DEVICE'];
    else process.env['OMNI_ID_DEVICE'] = preferred;
    context.dispose();
  }
  const text = report(results);
  process.stdout.write(`${text}\n${ratioLines(results)}`);
  if (json !== undefined) writeFileSync(json, `${JSON.stringify(results, null, 1)}\n`);
  if (markdown !== undefined) writeFileSync(markdown, text);
  const wrong = results.rows.filter(({ status }) => status !== 'ok');
  for (const { suite, name, contestant, dtype, status, note } of wrong)
    log(`${suite}: ${name}, ${contestant} ${dtype ?? ''}: ${status}: ${note ?? ''}`);
  // A ratio that was asked for by name and is not there is no success.
  const missing = options.only.filter(
    (name) => isRatio(name) && !results.ratios.some((ratio) => ratio.name === name),
  );
  for (const name of missing)
    log(`${name} could not be measured: this machine lacks a peer or an instruction set that it needs`);
  return wrong.length === 0 && missing.length === 0;
}
