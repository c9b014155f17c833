// TensorBoard's event files, read by the definitions of the formats alone: TFRecord, CRC-32C bit by bit, and protobuf's wire format.

/** CRC-32C (RFC 3720, appendix B.4), bit by bit. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  return ~crc >>> 0;
}

/** The records of a file. Fails unless every checksum is right and no byte is left over. */
export function records(file: Buffer): Buffer[] {
  const check = (bytes: Buffer, stored: number): void => {
    const crc = crc32c(bytes);
    const mask = (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
    if (stored !== mask) throw new Error(`checksum ${stored}, expected ${mask}`);
  };
  const found: Buffer[] = [];
  let at = 0;
  while (at < file.length) {
    const length = Number(file.readBigUInt64LE(at));
    check(file.subarray(at, at + 8), file.readUInt32LE(at + 8));
    const data = file.subarray(at + 12, at + 12 + length);
    check(data, file.readUInt32LE(at + 12 + length));
    found.push(data);
    at += 16 + length;
  }
  return found;
}

type Field = { number: number; wire: number; value: bigint; bytes: Buffer };

/** The fields of a protobuf message, in order. */
function* fields(message: Buffer): Generator<Field> {
  let at = 0;
  const varint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = message[at++] ?? 0;
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  while (at < message.length) {
    const key = Number(varint());
    const [number, wire] = [key >> 3, key & 7];
    if (wire === 0) yield { number, wire, value: varint(), bytes: Buffer.alloc(0) };
    else {
      const length = wire === 1 ? 8 : wire === 5 ? 4 : Number(varint());
      yield { number, wire, value: 0n, bytes: message.subarray(at, at + length) };
      at += length;
    }
  }
  if (at !== message.length) throw new Error(`a message of ${message.length} bytes ends at ${at}`);
}

export interface ReadEvent {
  readonly wallTime: number;
  readonly step: number;
  readonly fileVersion?: string;
  readonly restarted?: boolean;
  readonly scalars: Record<string, number>;
  readonly images: Record<string, { height: number; width: number; colourSpace: number; png: Buffer }>;
}

/** An `Event` (tensorboard/compat/proto/event.proto). */
export function readEvent(message: Buffer): ReadEvent {
  const event = { wallTime: NaN, step: 0, scalars: {}, images: {} } as { -readonly [K in keyof ReadEvent]: ReadEvent[K] }; // prettier-ignore
  for (const { number, bytes, value } of fields(message)) {
    if (number === 1) event.wallTime = bytes.readDoubleLE();
    else if (number === 2) event.step = Number(value);
    else if (number === 3) event.fileVersion = bytes.toString();
    else if (number === 7) event.restarted = [...fields(bytes)].some((f) => f.number === 1 && f.value === 1n);
    else if (number === 5) for (const one of fields(bytes)) readValue(one.bytes, event);
    else throw new Error(`unexpected field ${number} of Event`);
  }
  return event;
}

function readValue(message: Buffer, event: Pick<ReadEvent, 'scalars' | 'images'>): void {
  let tag = '';
  for (const { number, bytes } of fields(message)) {
    if (number === 1) tag = bytes.toString();
    else if (number === 2) event.scalars[tag] = bytes.readFloatLE();
    else if (number === 4) {
      const image = { height: 0, width: 0, colourSpace: 0, png: Buffer.alloc(0) };
      for (const field of fields(bytes)) {
        if (field.number === 1) image.height = Number(field.value);
        else if (field.number === 2) image.width = Number(field.value);
        else if (field.number === 3) image.colourSpace = Number(field.value);
        else if (field.number === 4) image.png = Buffer.from(field.bytes);
      }
      event.images[tag] = image;
    } else throw new Error(`unexpected field ${number} of Summary.Value`);
  }
}
