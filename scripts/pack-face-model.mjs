// Packs the light ICT face model (safetensors with all of its geometry) into assets/ict_face.safetensors, the file that the package ships:
//
//   node scripts/pack-face-model.mjs PATH/ict_face.safetensors
//
// Left out: modes after the 60th (below 0.02 cm), molars, gums, tongue, the backs of the eyeballs, irises (painted instead), lashes and the
// transparent parts around the eyes. Modes are stored as whole numbers with a scale each: 16 bits where 8 would show as noise in
// the normals (the first 16, and the expressions, of which only the vertices that move are kept). Added: ambient
// occlusion of every vertex, found by rendering depth maps from all around, and how near it is to the roots of the lashes.
import { Buffer } from 'node:buffer';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const modes = 60;
const wideModes = 16;
const directions = 256;
const mapSize = 320;

const source = readFileSync(process.argv[2]);
const headerBytes = Number(source.readBigUInt64LE(0));
const header = JSON.parse(source.toString('utf8', 8, 8 + headerBytes));
const bytesOf = (name) => {
  const [begin, end] = header[name].data_offsets;
  return source.buffer.slice(
    source.byteOffset + 8 + headerBytes + begin,
    source.byteOffset + 8 + headerBytes + end,
  );
};
const half = (bits) => {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const size = exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25);
  return bits & 0x8000 ? -size : size;
};
const halves = (name) => Float32Array.from(new Uint16Array(bytesOf(name)), half);

const neutral = new Float32Array(bytesOf('neutral'));
const triangles = new Int32Array(bytesOf('triangles'));
const material = new Uint8Array(bytesOf('material'));
const landmarks = new Int32Array(bytesOf('landmarks68'));
const expressionNames = JSON.parse(header.__metadata__.expressions);
const sourceVertices = neutral.length / 3;
const at = (v) => [neutral[3 * v], neutral[3 * v + 1], neutral[3 * v + 2]];

// Eyeballs as spheres: centres of their bounding boxes will do, they are round to a millimetre.
const eyeRanges = [
  [21451, 22221],
  [23021, 23791],
];
const eyeCentres = eyeRanges.map(([begin, end]) =>
  [0, 1, 2].map((axis) => {
    const values = Array.from({ length: end - begin }, (_, i) => neutral[3 * (begin + i) + axis]);
    return (Math.min(...values) + Math.max(...values)) / 2;
  }),
);

// The parts, in the order in which they are stored.
const parts = [
  { name: 'skin', ranges: [[0, 11248]] },
  { name: 'mouth', ranges: [[11248, 13294]] },
  { name: 'sockets', ranges: [[13294, 14062]] },
  { name: 'teeth', ranges: [[17730, 18556], [19952, 20746]] }, // prettier-ignore
  { name: 'eyes', ranges: eyeRanges, keep: (v) => eyeCentres.some((c) => Math.hypot(...at(v).map((x, i) => x - c[i])) < 2 && neutral[3 * v + 2] > c[2] + 0.2) }, // prettier-ignore
];
const renumbered = new Int32Array(sourceVertices).fill(-1);
const kept = [];
const partOf = [];
for (const [part, { ranges, keep = () => true }] of parts.entries()) {
  for (const [begin, end] of ranges) {
    for (let v = begin; v < end; v++) {
      if (!keep(v)) continue;
      renumbered[v] = kept.length;
      kept.push(v);
      partOf.push(part);
    }
  }
}
// Triangles sorted by part; one that joins two parts (skin and the mouth's inside) belongs to the later.
const keptTriangles = parts.map(() => []);
for (let t = 0; t < material.length; t++) {
  const corners = [0, 1, 2].map((i) => renumbered[triangles[3 * t + i]]);
  if (corners.includes(-1)) continue;
  keptTriangles[Math.max(...corners.map((v) => partOf[v]))].push(corners);
}
const allTriangles = keptTriangles.flat();

/** Depth along `direction` of the nearest surface, seen through a square grid. */
function occlusion() {
  const open = new Float64Array(kept.length);
  const total = new Float64Array(kept.length);
  const normals = new Float64Array(3 * kept.length);
  const position = kept.map(at);
  for (const [a, b, c] of allTriangles) {
    const [p, q, r] = [position[a], position[b], position[c]];
    const u = q.map((x, i) => x - p[i]);
    const w = r.map((x, i) => x - p[i]);
    const n = [u[1] * w[2] - u[2] * w[1], u[2] * w[0] - u[0] * w[2], u[0] * w[1] - u[1] * w[0]];
    for (const v of [a, b, c]) for (let i = 0; i < 3; i++) normals[3 * v + i] += n[i];
  }
  for (let k = 0; k < directions; k++) {
    const z = 1 - (2 * k + 1) / directions;
    const angle = k * Math.PI * (3 - Math.sqrt(5));
    const d = [Math.sqrt(1 - z * z) * Math.cos(angle), z, Math.sqrt(1 - z * z) * Math.sin(angle)];
    const side = Math.abs(d[1]) < 0.9 ? [d[2], 0, -d[0]] : [0, -d[2], d[1]];
    const length = Math.hypot(...side);
    const x = side.map((s) => s / length);
    const y = [d[1] * x[2] - d[2] * x[1], d[2] * x[0] - d[0] * x[2], d[0] * x[1] - d[1] * x[0]];
    const scale = mapSize / 42;
    const seen = position.map((p) => [
      (p[0] * x[0] + (p[1] + 2) * x[1] + p[2] * x[2]) * scale + mapSize / 2,
      (p[0] * y[0] + (p[1] + 2) * y[1] + p[2] * y[2]) * scale + mapSize / 2,
      p[0] * d[0] + p[1] * d[1] + p[2] * d[2],
    ]);
    const depth = new Float32Array(mapSize * mapSize).fill(-Infinity);
    for (const corners of allTriangles) {
      const [a, b, c] = corners.map((v) => seen[v]);
      const area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
      if (area === 0) continue;
      for (let j = Math.ceil(Math.min(a[1], b[1], c[1])); j <= Math.max(a[1], b[1], c[1]); j++) {
        for (let i = Math.ceil(Math.min(a[0], b[0], c[0])); i <= Math.max(a[0], b[0], c[0]); i++) {
          const wb = ((i - a[0]) * (c[1] - a[1]) - (j - a[1]) * (c[0] - a[0])) / area;
          const wc = ((b[0] - a[0]) * (j - a[1]) - (b[1] - a[1]) * (i - a[0])) / area;
          if (wb < 0 || wc < 0 || wb + wc > 1) continue;
          const z = a[2] + wb * (b[2] - a[2]) + wc * (c[2] - a[2]);
          if (z > depth[j * mapSize + i]) depth[j * mapSize + i] = z;
        }
      }
    }
    for (const [v, [sx, sy, sz]] of seen.entries()) {
      const n = normals.subarray(3 * v, 3 * v + 3);
      const cosine = (n[0] * d[0] + n[1] * d[1] + n[2] * d[2]) / Math.hypot(n[0], n[1], n[2]);
      if (!(cosine > 0.05)) continue;
      total[v] += cosine;
      // The surface's own slope within a cell of the map must not shade it.
      const bias = 0.15 + 0.12 * Math.min(4, Math.sqrt(1 - cosine * cosine) / cosine);
      if (depth[Math.round(sy) * mapSize + Math.round(sx)] <= sz + bias) open[v] += cosine;
    }
  }
  return Uint8Array.from(open, (value, v) => (total[v] > 0 ? Math.round((255 * value) / total[v]) : 0));
}

/** 255 at the roots of the lashes, falling to 0 within a few millimetres; lower lashes count half. */
function lashes() {
  const roots = [];
  for (let v = 25351; v < 26719; v++) {
    const p = at(v);
    let nearest = Infinity;
    for (let s = 0; s < 6706; s++) nearest = Math.min(nearest, Math.hypot(...at(s).map((x, i) => x - p[i])));
    if (nearest < 0.1) roots.push([p, (v - 25351) % 684 < 342 ? 1 : 0.5]);
  }
  return Uint8Array.from(kept, (v) => {
    if (v >= 6706) return 0;
    let best = 0;
    for (const [p, strength] of roots) {
      const d = Math.hypot(...at(v).map((x, i) => x - p[i]));
      best = Math.max(best, strength * Math.exp(-((d / 0.13) ** 2)));
    }
    return Math.round(255 * best);
  });
}

/** Whole numbers up to `most` with one scale: [values, scale]. */
function quantised(values, most, Kind) {
  const scale = values.reduce((largest, x) => Math.max(largest, Math.abs(x)), 0) / most;
  return [Kind.from(values, (x) => Math.round(x / scale)), scale];
}

const identity = halves('identity');
const identityScales = new Float32Array(modes);
const identityWide = new Int16Array(wideModes * 3 * kept.length);
const identityNarrow = new Int8Array((modes - wideModes) * 3 * kept.length);
for (let m = 0; m < modes; m++) {
  const values = kept.flatMap((v) => [0, 1, 2].map((i) => identity[(m * sourceVertices + v) * 3 + i]));
  const wide = m < wideModes;
  const [numbers, scale] = quantised(values, wide ? 32767 : 127, wide ? Int16Array : Int8Array);
  identityScales[m] = scale;
  if (wide) identityWide.set(numbers, m * values.length);
  else identityNarrow.set(numbers, (m - wideModes) * values.length);
}

const expression = halves('expression');
const expressionScales = new Float32Array(expressionNames.length);
const expressionStarts = new Int32Array(expressionNames.length + 1);
const moved = [];
const movement = [];
for (let e = 0; e < expressionNames.length; e++) {
  const values = [];
  for (const [v, original] of kept.entries()) {
    const offset = [0, 1, 2].map((i) => expression[(e * sourceVertices + original) * 3 + i]);
    if (Math.hypot(...offset) < 5e-4) continue;
    moved.push(v);
    values.push(...offset);
  }
  const [numbers, scale] = quantised(values, 32767, Int16Array);
  expressionScales[e] = scale;
  movement.push(...numbers);
  expressionStarts[e + 1] = moved.length;
}

const counts = (lists) => Int32Array.from(lists);
const tensors = {
  neutral: ['F32', [kept.length, 3], Float32Array.from(kept.flatMap(at))],
  identity_scales: ['F32', [modes], identityScales],
  identity_wide: ['I16', [wideModes, kept.length, 3], identityWide],
  identity_narrow: ['I8', [modes - wideModes, kept.length, 3], identityNarrow],
  expression_scales: ['F32', [expressionNames.length], expressionScales],
  expression_starts: ['I32', [expressionNames.length + 1], expressionStarts],
  expression_vertices: ['U16', [moved.length], Uint16Array.from(moved)],
  expression_movement: ['I16', [moved.length, 3], Int16Array.from(movement)],
  triangles: ['U16', [allTriangles.length, 3], Uint16Array.from(allTriangles.flat())],
  part_triangles: ['I32', [parts.length], counts(keptTriangles.map((list) => list.length))],
  part_vertices: ['I32', [parts.length], counts(parts.map((_, i) => partOf.filter((p) => p === i).length))],
  landmarks68: ['I32', [68], landmarks.map((v) => renumbered[v])],
  eye_centres: ['F32', [2, 3], Float32Array.from(eyeCentres.flat())],
  occlusion: ['U8', [kept.length], occlusion()],
  lashes: ['U8', [kept.length], lashes()],
};
// Widest elements first, so that every tensor is aligned to its own.
const order = Object.entries(tensors).sort(
  ([, [, , a]], [, [, , b]]) => b.BYTES_PER_ELEMENT - a.BYTES_PER_ELEMENT,
);
const json = {
  __metadata__: {
    source:
      'ICT-FaceKit light (USC Institute for Creative Technologies), MIT licence, see LICENSE-ICT-FaceKit',
    units: 'centimetres; y up, z towards the viewer',
    parts: JSON.stringify(parts.map(({ name }) => name)),
    expressions: JSON.stringify(expressionNames),
  },
};
let end = 0;
for (const [name, [dtype, shape, data]] of order) {
  json[name] = { dtype, shape, data_offsets: [end, end + data.byteLength] };
  end += data.byteLength;
}
let text = JSON.stringify(json);
text += ' '.repeat((8 - (text.length % 8)) % 8);
const length = Buffer.alloc(8);
length.writeBigUInt64LE(BigInt(text.length));
const out = join(import.meta.dirname, '../assets/ict_face.safetensors');
writeFileSync(
  out,
  Buffer.concat([
    length,
    Buffer.from(text),
    ...order.map(([, [, , data]]) => Buffer.from(data.buffer, data.byteOffset, data.byteLength)),
  ]),
);
console.log(
  `${out}: ${kept.length} vertices, ${allTriangles.length} triangles, ${(end / 1e6).toFixed(2)} MB of tensors`,
);
