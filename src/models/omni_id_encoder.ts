import type { NativeTensor } from '../bindings.js';
import type { Photo } from '../data/photo.js';
import { PhotoLoader, type PlacedPhoto } from '../data/photo_loader.js';
import { ArgumentError } from '../errors.js';
import { Graph, type WeightUse } from '../graph/graph.js';
import { translated, type Place, type Session } from '../graph/session.js';
import { clipVisionNames, matchWeights, openCheckpoint, registerWeights } from '../io/checkpoint.js';
import {
  checkOmniIdConfig,
  omniIdConfigToJson,
  parseOmniIdConfig,
  readModelConfig,
  type OmniIdEncoderConfig,
} from '../io/config.js';
import { Scope } from '../nn/scope.js';
import { describe } from '../kinds.js';
import { checkFolder, checkOptions } from '../options.js';
import { clipVisionWeights, tokensPerImage } from './clip_vision.js';
import {
  checkFinite,
  checkedPhotos,
  checkPhotos,
  embedImages,
  readClipFolder,
  type EmbedOptions,
  type FeatureOptions,
  type ImageFeatures,
  type Tensor,
} from './clip_vision_encoder.js';
import { initialise } from './initialise.js';
import {
  loadWeights,
  Model,
  newSession,
  type ComputeDType,
  type ComputeOptions,
  type LoadOptions,
} from './model.js';
import { omniEncoder } from './omni_encoder.js';
import { presets, type PresetName } from './presets.js';
import { saveModel, type SaveOptions } from './save.js';
import { VisionPipeline } from './vision_pipeline.js';

/** Identity tokens. `shape` is [identities, L, C]. */
export interface IdentityTokens extends Tensor {
  /** For every row of `data`, the index of its identity in the call: all in order, unless `onPhotoError` left one without photos. */
  readonly identities: readonly number[];
  /** For every row, how many photos it was made from. */
  readonly photos: readonly number[];
}

export interface CreateOptions extends ComputeOptions {
  /** Seed of the new weights: a whole number from 0 to 2^53 − 1. Default: 0. */
  seed?: number | undefined;
  /** Folder of a CLIP model to start the vision tower from, as the paper does. Its config replaces the preset's vision config. */
  vision?: string | undefined;
  /** Stops between weights; the call rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** Photos of the identities whose features are held at once; an identity with more is a group of its own. */
const photosPerGroup = 64;

interface Group {
  readonly identities: readonly number[];
  readonly photos: readonly PlacedPhoto[];
}

/**
 * The Omni-ID encoder, ℓ = E(X): any number of photos of a person to L identity tokens of width C (paper, section 3.1).
 *
 * Peak memory: the packed weights (bf16: 1.4 GB for preset `h`, 52 MB for `nano`), activations of one batch, and the CLIP features of
 * at most 64 photos, or of the identity with the most photos (1.3 MB a photo for `h`), three times.
 */
export class OmniIdEncoder extends Model {
  readonly #pipeline: VisionPipeline;

  private constructor(
    session: Session,
    dtype: ComputeDType,
    readonly config: OmniIdEncoderConfig,
  ) {
    super(session, dtype);
    this.#pipeline = new VisionPipeline(session, config.vision, config.imageProcessor, dtype);
  }

  /**
   * Loads an encoder saved by {@link save}.
   * @param folder with `config.json` and `model.safetensors` (or a sharded index)
   * @throws {FileError} `ERR_FILE`, {ConfigError} `ERR_CONFIG`, {FormatError} `ERR_FORMAT`, {WeightsError} `ERR_WEIGHTS` listing every name
   *   that does not fit, {DeviceError} `ERR_DEVICE_UNAVAILABLE` or `ERR_OUT_OF_MEMORY`, {ArgumentError} `ERR_INVALID_ARGUMENT`
   */
  static async load(folder: string, options: LoadOptions = {}): Promise<OmniIdEncoder> {
    checkFolder(folder);
    checkOptions('load', options);
    const { dtype = 'bf16' } = options;
    const session = newSession(options);
    try {
      const { json, path } = await readModelConfig(folder);
      const config = parseOmniIdConfig(json, path);
      const model = new OmniIdEncoder(session, dtype, config);
      const source = matchWeights(await openCheckpoint(folder), model.#expectedWeights(), folder);
      await loadWeights(session, folder, source, config, options, () => model.#pack());
      return model;
    } catch (error) {
      session.dispose();
      throw error;
    }
  }

  /**
   * A new encoder. It is untrained: its tokens tell nobody apart until it has been trained. Making the 700 million weights of `h` takes half a
   * minute and 3 GB; loading a saved one takes a second.
   * @param preset `'nano'`, `'nano-synth'`, `'h'` (the paper's), or a config
   * @throws {ArgumentError} `ERR_INVALID_ARGUMENT`, {ConfigError} `ERR_CONFIG`, {DeviceError} `ERR_DEVICE_UNAVAILABLE` or
   *   `ERR_OUT_OF_MEMORY`; with `vision` also {FileError} `ERR_FILE`, {FormatError} `ERR_FORMAT` and {WeightsError} `ERR_WEIGHTS`
   */
  static async create(
    preset: PresetName | OmniIdEncoderConfig,
    options: CreateOptions = {},
  ): Promise<OmniIdEncoder> {
    checkOptions('create', options);
    const { seed = 0, vision, dtype = 'bf16' } = options;
    if (typeof preset === 'string' && !Object.hasOwn(presets, preset)) {
      throw new ArgumentError(
        `unknown preset ${JSON.stringify(preset)}: expected one of ${Object.keys(presets).join(', ')}, or a config`,
      );
    }
    if (typeof preset !== 'string' && (typeof preset !== 'object' || (preset as unknown) === null)) {
      throw new ArgumentError(`preset is ${describe(preset)}, expected a name or a config`);
    }
    let config = checkOmniIdConfig(typeof preset === 'string' ? presets[preset] : preset);
    const session = newSession(options);
    try {
      if (vision !== undefined) config = { ...config, ...(await readClipFolder(vision)) };
      const model = new OmniIdEncoder(session, dtype, config);
      const expected = model.#expectedWeights();
      if (vision !== undefined) {
        const tower = new Map([...expected].filter(([name]) => name.startsWith('vision_model.')));
        registerWeights(
          session.weights,
          matchWeights(clipVisionNames(await openCheckpoint(vision)), tower, vision),
        );
      }
      await model.enqueue(options.signal, (signal) => initialise(session, config, expected, seed, signal));
      await model.#pack();
      options.signal?.throwIfAborted();
      return model;
    } catch (error) {
      session.dispose();
      throw error;
    }
  }

  /**
   * Identity tokens of any number of identities, each with any number of photos, in one call. The order of an identity's photos does
   * not matter, beyond rounding. Calls on one encoder queue.
   *
   * Photos given as buffers are read when the call's turn comes: do not change them before the promise settles.
   *
   * @param identities for each identity its photos, at least one
   * @returns `data` [identities, L, C]; [0, L, C] of no identities
   * @throws {ImageError} naming the photo and identity, for the first photo that cannot be used; {ArgumentError} for an identity without
   *   photos; {NumericError} `ERR_NOT_FINITE`; the signal's reason when aborted; {DisposedError} `ERR_DISPOSED`
   */
  async embed(
    identities: readonly (readonly Photo[])[],
    options: EmbedOptions = {},
  ): Promise<IdentityTokens> {
    checkOptions('embed', options);
    if (!Array.isArray(identities)) {
      throw new ArgumentError(
        `identities is ${describe(identities)}, expected an array with an array of photos for each identity`,
      );
    }
    for (const [identity, photos] of identities.entries()) {
      checkPhotos(photos, this.config.vision.imageSize, identity);
      if (photos.length === 0)
        throw new ArgumentError(`identity ${identity} has no photos, expected at least one`);
    }
    // The lists may change while the call waits for its turn; the photos in them are read when it comes.
    const lists = identities.map((photos: readonly Photo[]) => [...photos]);
    return this.enqueue(options.signal, (signal) => this.#embed(lists, { ...options, signal }));
  }

  /**
   * CLIP features of photos, without the encoder's head.
   * @throws what {@link embed} throws
   */
  async embedImages(photos: readonly Photo[], options: FeatureOptions = {}): Promise<ImageFeatures> {
    const { vision } = this.config;
    const list = checkedPhotos(photos, vision.imageSize, options);
    return this.enqueue(options.signal, (signal) =>
      embedImages(this.session, this.#pipeline, vision, list, { ...options, signal }),
    );
  }

  /**
   * Saves the encoder as a folder with `config.json` and `model.safetensors`, which is made when its parent exists. Each file is replaced as a
   * whole or not at all.
   * @param options see {@link SaveOptions}
   * @throws {ArgumentError} `ERR_INVALID_ARGUMENT`; {FileError} `ERR_FILE`; the signal's reason when aborted; {DisposedError} `ERR_DISPOSED`
   */
  async save(folder: string, options: SaveOptions = {}): Promise<void> {
    checkFolder(folder);
    checkOptions('save', options);
    await this.enqueue(options.signal, (signal) =>
      saveModel(folder, this.session.weights, this.#expectedWeights(), omniIdConfigToJson(this.config), {
        ...options,
        signal,
      }),
    );
  }

  #headGraph(photos: number, identities: number): Graph {
    return omniIdHeadGraph(this.config, this.dtype, photos, identities);
  }

  #expectedWeights(): ReadonlyMap<string, WeightUse> {
    return omniIdWeights(this.config);
  }

  /** Brings all weights into the kernels' layout, so that the first call does not wait for it. */
  async #pack(): Promise<void> {
    const feature = this.config.features;
    await this.session.plan(`vision 1 ${feature}`, () => this.#pipeline.graph(1, feature));
    await this.session.plan('head 1 1', () => this.#headGraph(1, 1));
  }

  async #embed(
    identities: readonly (readonly Photo[])[],
    options: EmbedOptions & { signal: AbortSignal },
  ): Promise<IdentityTokens> {
    const { tokens, width } = this.config;
    const data = new Float32Array(identities.length * tokens * width);
    const kept: number[] = [];
    const counts: number[] = [];
    const all = [...groups(identities)];
    const loader = new PhotoLoader(
      all.flatMap(({ photos }) => photos),
      options,
    );
    const photosTotal = identities.reduce((sum, photos) => sum + photos.length, 0);
    let photosDone = 0;
    // The head of one group runs while the photos of the next are decoded and prepared.
    const heads: Promise<void>[] = [];
    try {
      for (const group of all) {
        const features = this.session.tensor({
          dtype: 'f32',
          shape: [group.photos.length * this.#pipeline.tokens, this.config.vision.hiddenSize],
        });
        const vision = this.#pipeline.run(group.photos, loader, this.config.features, features, {
          ...options,
          onDone: (count) => {
            photosDone += count;
            options.onProgress?.({ photosDone, photosTotal });
          },
        });
        const before = heads.at(-1);
        const head = vision
          .then(async (used) => {
            await before;
            const result = await this.#head(group, used, features, options.signal);
            data.set(result.data, kept.length * tokens * width);
            kept.push(...result.identities);
            counts.push(...result.photos);
          })
          .finally(() => {
            features.dispose();
          });
        head.catch(() => undefined); // met below
        heads.push(head);
        await vision;
        await before;
      }
      await heads.at(-1);
    } finally {
      await Promise.allSettled([...heads, loader.stop()]);
    }
    const used = kept.length === identities.length ? data : data.slice(0, kept.length * tokens * width);
    return { data: used, shape: [kept.length, tokens, width], identities: kept, photos: counts };
  }

  /** Tokens of a group's identities from the features of the photos that were used. */
  async #head(
    group: Group,
    used: readonly PlacedPhoto[],
    features: NativeTensor,
    signal: AbortSignal,
  ): Promise<Omit<IdentityTokens, 'shape'>> {
    const { session } = this;
    const perPhoto = this.#pipeline.tokens;
    const { tokens, width } = this.config;
    const counts = new Map<number, number>();
    for (const { identity = 0 } of used) counts.set(identity, (counts.get(identity) ?? 0) + 1);
    const identities = group.identities.filter((identity) => counts.has(identity));
    const photos = identities.map((identity) => counts.get(identity) ?? 0);
    if (identities.length === 0) return { data: new Float32Array(0), identities, photos };

    const tensors: NativeTensor[] = [];
    try {
      const offsets = [0];
      for (const count of photos) offsets.push((offsets.at(-1) ?? 0) + count * perPhoto);
      const index = (values: number[]): Place => {
        const tensor = session.tensor({ dtype: 'i32', shape: [values.length] });
        tensors.push(tensor);
        tensor.write(Int32Array.from(values), 0);
        return { tensor, element: 0 };
      };
      const out = session.tensor({ dtype: 'f32', shape: [identities.length * tokens, width] });
      tensors.push(out);
      const plan = await session.plan(`head ${used.length} ${identities.length}`, () =>
        this.#headGraph(used.length, identities.length),
      );
      await session.run(
        plan,
        {
          features: { tensor: features, element: 0 },
          photo_starts: index(offsets.slice(0, -1)),
          photo_offsets: index(offsets),
          query_starts: index(identities.map(() => 0)),
          query_offsets: index([...identities, 0].map((_, i) => i * tokens)),
          tokens: { tensor: out, element: 0 },
        },
        signal,
      );
      const data = out.read(0, identities.length * tokens * width) as Float32Array;
      for (const [i, identity] of identities.entries())
        checkFinite(
          data.subarray(i * tokens * width, (i + 1) * tokens * width),
          `the tokens of identity ${identity}`,
        );
      return { data, identities, photos };
    } finally {
      for (const tensor of tensors) tensor.dispose();
    }
  }
}

/** The graph of the encoder's head: from the features of `photos` photos of `identities` identities to their tokens. */
export function omniIdHeadGraph(
  config: OmniIdEncoderConfig,
  dtype: ComputeDType,
  photos: number,
  identities: number,
): Graph {
  const graph = new Graph();
  const rows = photos * tokensPerImage(config.vision);
  const features = graph.input('features', 'f32', [rows, config.vision.hiddenSize]);
  const starts = graph.input('photo_starts', 'i32', [identities]);
  const offsets = graph.input('photo_offsets', 'i32', [identities + 1]);
  graph.output(
    'tokens',
    omniEncoder(new Scope(graph, dtype), config, features, identities, { starts, offsets, rows }),
  );
  return graph;
}

/** Every weight of an encoder, by its published name. */
export function omniIdWeights(config: OmniIdEncoderConfig): ReadonlyMap<string, WeightUse> {
  return new Map([
    ...translated(() => omniIdHeadGraph(config, 'f32', 1, 1)).weights,
    ...clipVisionWeights(config.vision),
  ]);
}

/** Whole identities, in order, with at most `photosPerGroup` photos together where one alone has not more. */
function* groups(identities: readonly (readonly Photo[])[]): Generator<Group> {
  let members: number[] = [];
  let photos: PlacedPhoto[] = [];
  for (const [identity, sources] of identities.entries()) {
    if (members.length > 0 && photos.length + sources.length > photosPerGroup) {
      yield { identities: members, photos };
      [members, photos] = [[], []];
    }
    members.push(identity);
    for (const [photo, source] of sources.entries()) photos.push({ identity, photo, source });
  }
  if (members.length > 0) yield { identities: members, photos };
}
