export type { StepProfile } from './bindings.js';
export {
  AddonError,
  ArgumentError,
  ConfigError,
  DatasetError,
  DeviceError,
  DisposedError,
  FileError,
  FormatError,
  ImageError,
  InterruptedError,
  NumericError,
  OmniIdError,
  WeightsError,
  type ImageErrorCode,
} from './errors.js';
export type { DecodeOptions, Photo, RawImage } from './data/photo.js';
export type { IdentityDataset, TrainingPhoto } from './data/dataset.js';
export {
  expressionNames,
  heldOutSeed,
  renderFace,
  type RenderedPhoto,
  type RenderOptions,
} from './data/rendered.js';
export type { HeadPose, ViewOptions } from './data/view_options.js';
export { RenderedDataset, type RenderedDatasetOptions } from './data/rendered_dataset.js';
export {
  devices,
  type CudaDeviceInfo,
  type DeviceName,
  type DeviceOptions,
  type Devices,
} from './graph/devices.js';
export type { ClipVisionConfig, OmniIdEncoderConfig } from './io/config.js';
export type { ImageProcessorConfig } from './io/image_processor.js';
export type { MtdConfig } from './io/mtd_config.js';
export type { ClipVisionFeature } from './models/clip_vision.js';
export {
  ClipVisionEncoder,
  type EmbedOptions,
  type FeatureOptions,
  type ImageFeatures,
  type Tensor,
} from './models/clip_vision_encoder.js';
export type { ComputeDType, ComputeOptions, LoadOptions, ModelInfo } from './models/model.js';
export {
  MaskedTransformerDecoder,
  type CreateMtdOptions,
  type ReconstructOptions,
  type Reconstruction,
  type TargetLosses,
  type TargetOptions,
} from './models/mtd.js';
export { OmniIdEncoder, type CreateOptions, type IdentityTokens } from './models/omni_id_encoder.js';
export { presets, type PresetName } from './models/presets.js';
export type { SaveDType, SaveOptions } from './models/save.js';
export { openDataset } from './data/open_dataset.js';
export {
  parseTrainingConfig,
  readTrainingConfig,
  type TrainingConfig,
  type TrainingConfigInput,
} from './train/config.js';
export { trainingPresets, type TrainingPresetName } from './train/presets.js';
export {
  exportCheckpoint,
  type ExportCheckpointOptions,
  type ExportedCheckpoint,
} from './train/export_checkpoint.js';
export type { TrainingProgress } from './train/console.js';
export { train, type TrainOptions, type TrainResult } from './train/trainer.js';
