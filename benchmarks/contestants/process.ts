import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { messageSchema, type Message, type Sample, type Ready } from './protocol.js';

/** A program, with its arguments and what its environment has besides ours. */
export interface Program {
  readonly command: string;
  readonly arguments: readonly string[];
  readonly env?: Readonly<Record<string, string>> | undefined;
}

/** Nothing that a contestant does takes this long: one that is silent for longer hangs. */
const silenceMs = 300_000;

/** A contestant's process, as the suite sees it. Every method rejects with what the contestant says of its failure, or how it ended. */
export class ContestantProcess {
  readonly #child;
  readonly #lines: AsyncIterator<string, undefined>;
  /** The end of what it printed besides messages, for when it fails. */
  #noise = '';

  constructor(
    readonly name: string,
    program: Program,
  ) {
    this.#child = spawn(program.command, program.arguments, {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { ...process.env, ...program.env },
    });
    this.#child.stderr.on('data', (chunk: Buffer) => {
      this.#noise = (this.#noise + chunk.toString()).slice(-2000);
    });
    // What goes wrong shows as the end of the output; these keep it from ending us.
    this.#child.on('error', (error) => (this.#noise += error.message));
    this.#child.stdin.on('error', () => undefined);
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  async #next<Type extends Message['type']>(type: Type): Promise<Extract<Message, { type: Type }>> {
    const timer = setTimeout(() => {
      this.#noise += `\nsilent for ${silenceMs / 1000} s`;
      this.kill();
    }, silenceMs);
    try {
      for (;;) {
        const line = await this.#lines.next();
        if (line.done === true)
          throw new Error(this.#noise.trim().split('\n').slice(-3).join(' | ') || 'it ended early');
        // Peers print what they like: a message is a line that is one.
        if (!line.value.startsWith('{"type"')) continue;
        const message = messageSchema.parse(JSON.parse(line.value));
        if (message.type === 'error') throw new Error(message.message);
        if (message.type !== type) throw new Error(`it said ${message.type} instead of ${type}`);
        return message as Extract<Message, { type: Type }>;
      }
    } finally {
      clearTimeout(timer);
    }
  }

  ready(): Promise<Ready> {
    return this.#next('ready');
  }

  async sample(work: string): Promise<Sample> {
    this.#child.stdin.write(`run ${work}\n`);
    return this.#next('sample');
  }

  /** Ends the process. @returns the most memory that it had resident, bytes */
  async end(): Promise<number> {
    this.#child.stdin.write('end\n');
    return (await this.#next('end')).peakBytes;
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }
}
