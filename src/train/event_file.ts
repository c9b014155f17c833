import { closeSync, mkdirSync, openSync, writeSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import { crc32c } from '@node-rs/crc32';
import { FileError, messageOf } from '../errors.js';

/**
 * TensorBoard's event files. A file is a row of records (tensorflow/core/lib/io/record_writer.h): length, u64 little-endian; its masked CRC-32C; the data; its
 * masked CRC-32C. The data is an `Event` (tensorboard/compat/proto/event.proto, summary.proto); of its fields those below are written.
 */

const event = { wallTime: 1, step: 2, fileVersion: 3, summary: 5, sessionLog: 7 } as const;
const summaryValue = 1;
const value = { tag: 1, simpleValue: 2, image: 4 } as const;
const image = { height: 1, width: 2, colourSpace: 3, encoded: 4 } as const;
const sessionLog = { status: 1, start: 1 } as const;

/** A PNG for TensorBoard. */
export interface EventImage {
  readonly png: Uint8Array;
  readonly width: number;
  readonly height: number;
}

/** Stored checksums are masked, so that the checksum of data that holds checksums means something (record_writer.cc). */
function masked(bytes: Uint8Array): number {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

function record(data: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(8 + 4 + data.byteLength + 4);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(data.byteLength), true);
  view.setUint32(8, masked(bytes.subarray(0, 8)), true);
  bytes.set(data, 12);
  view.setUint32(12 + data.byteLength, masked(data), true);
  return bytes;
}

/** Files of this process, as some may be of the same second. */
let opened = 0;

/** Writes events of a run, for TensorBoard to show. */
export class EventFile implements Disposable {
  #file: number | undefined;

  private constructor(
    readonly path: string,
    file: number,
  ) {
    this.#file = file;
  }

  /**
   * Begins a new file in a folder, which is made. What older files there hold of steps after `step` is no longer shown: TensorBoard drops it at a
   * `SessionLog` START (tensorboard/backend/event_processing/plugin_event_accumulator.py).
   * @throws {FileError} `ERR_FILE`
   */
  static open(folder: string, step: number): EventFile {
    // TensorBoard reads files in the order of their names.
    const seconds = Math.floor(Date.now() / 1000);
    const name = `events.out.tfevents.${seconds}.${hostname()}.${process.pid}.${String(opened++).padStart(4, '0')}`;
    const path = join(folder, name);
    let events: EventFile;
    try {
      mkdirSync(folder, { recursive: true });
      events = new EventFile(path, openSync(path, 'ax'));
    } catch (error) {
      throw new FileError(`cannot open ${path}: ${messageOf(error)}`, { cause: error });
    }
    events.#write(0, (writer) => writer.tag(event.fileVersion, WireType.LengthDelimited).string('brain.Event:2'));
    events.#write(step + 1, (writer) =>
      writer.tag(event.sessionLog, WireType.LengthDelimited).fork().tag(sessionLog.status, WireType.Varint).int32(sessionLog.start).join(),
    );
    return events;
  } // prettier-ignore

  /**
   * Adds numbers of a step, by tag.
   * @throws {FileError} `ERR_FILE`
   */
  scalars(step: number, values: Readonly<Record<string, number>>): void {
    this.#write(step, (writer) => {
      writer.tag(event.summary, WireType.LengthDelimited).fork();
      for (const [tag, number] of Object.entries(values)) {
        writer.tag(summaryValue, WireType.LengthDelimited).fork();
        writer.tag(value.tag, WireType.LengthDelimited).string(tag);
        writer.tag(value.simpleValue, WireType.Bit32).float(Math.fround(number)).join();
      }
      return writer.join();
    });
  }

  /**
   * Adds a picture of a step.
   * @throws {FileError} `ERR_FILE`
   */
  image(step: number, tag: string, { png, width, height }: EventImage): void {
    this.#write(step, (writer) => {
      writer.tag(event.summary, WireType.LengthDelimited).fork();
      writer.tag(summaryValue, WireType.LengthDelimited).fork();
      writer.tag(value.tag, WireType.LengthDelimited).string(tag);
      writer.tag(value.image, WireType.LengthDelimited).fork();
      writer.tag(image.height, WireType.Varint).int32(height);
      writer.tag(image.width, WireType.Varint).int32(width);
      writer.tag(image.colourSpace, WireType.Varint).int32(3); // RGB
      writer.tag(image.encoded, WireType.LengthDelimited).bytes(png);
      return writer.join().join().join();
    });
  }

  #write(step: number, fields: (writer: BinaryWriter) => BinaryWriter): void {
    if (this.#file === undefined) return;
    const writer = new BinaryWriter();
    writer.tag(event.wallTime, WireType.Bit64).double(Date.now() / 1000);
    // Fields at their default are left out, as protobuf's own writers do.
    if (step !== 0) writer.tag(event.step, WireType.Varint).int64(step);
    const bytes = record(fields(writer).finish());
    try {
      for (let done = 0; done < bytes.length;) done += writeSync(this.#file, bytes, done);
    } catch (error) {
      throw new FileError(`cannot write ${this.path}: ${messageOf(error)}`, { cause: error });
    }
  }

  close(): void {
    if (this.#file !== undefined) closeSync(this.#file);
    this.#file = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
