import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';

/** How a program ended, and what it printed. */
export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface ProgramOptions {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  /** The program is killed after this time. Default: a minute. */
  readonly timeoutMs?: number;
  /** Given the program as soon as it runs: to send it signals, or to close its pipes. */
  readonly onStart?: (child: ChildProcess) => void;
}

/** Runs a program to its end, without a terminal. */
export async function runProgram(
  command: string,
  options: readonly string[],
  { cwd, env, timeoutMs = 60_000, onStart }: ProgramOptions = {},
): Promise<Ended> {
  const child = spawn(command, options, {
    cwd,
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: timeoutMs,
    killSignal: 'SIGKILL',
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  onStart?.(child);
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
  return { code, signal, stdout, stderr };
}
