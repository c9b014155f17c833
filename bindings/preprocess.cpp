#include "base/error.h"
#include "image/clip_preprocess.h"
#include "objects.h"
#include "values.h"

namespace omni_id::bindings {

namespace {

// { resize, crop, rescale, mean, std }
ClipPreprocess settings_from(const Napi::Value& value) {
  if (!value.IsObject()) throw EngineError(kInvalidArgument, "preprocess: expected settings");
  const auto options = value.As<Napi::Object>();
  const Napi::Value means = options.Get("mean"), deviations = options.Get("std");
  if (!means.IsArray() || !deviations.IsArray()) throw EngineError(kInvalidArgument, "preprocess: expected mean and std");
  ClipPreprocess settings;
  settings.resize_shortest_edge = integer_from(options.Get("resize"), "resize");
  settings.crop = integer_from(options.Get("crop"), "crop");
  settings.rescale = options.Get("rescale").ToNumber();
  for (uint32_t i = 0; i < 3; ++i) {
    settings.mean[i] = means.As<Napi::Array>().Get(i).ToNumber().FloatValue();
    settings.standard_deviation[i] = deviations.As<Napi::Array>().Get(i).ToNumber().FloatValue();
  }
  return settings;
}

}  // namespace

// preprocess(device, { data: Uint8Array, width, height }, { resize, crop, rescale, mean, std }, tensor, element, cancellation)
// The image's memory is read on the engine's threads while the promise is pending: it must not change or be transferred.
Napi::Value preprocess(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Environment& environment = Environment::of(info.Env());
    const auto device = unwrap<DeviceObject>(info[0], environment.device, "a Device").engine();
    const auto tensor = unwrap<TensorObject>(info[3], environment.tensor, "a Tensor").engine();
    const CancelFlag cancelled = unwrap<CancellationObject>(info[5], environment.cancellation, "a Cancellation").flag();
    if (!info[1].IsObject()) throw EngineError(kInvalidArgument, "preprocess: expected an image");
    const Napi::Object image = info[1].As<Napi::Object>();
    const Napi::Value data = image.Get("data");
    if (!data.IsTypedArray() || (data.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)) {
      throw EngineError(kInvalidArgument, "preprocess: expected a Uint8Array");
    }
    const auto bytes = data.As<Napi::Uint8Array>();
    const RgbImage rgb{bytes.Data(), integer_from(image.Get("width"), "width"), integer_from(image.Get("height"), "height")};
    const ClipPreprocess settings = settings_from(info[2]);
    const int64_t element = integer_from(info[4], "element");
    check_image(rgb, bytes.ElementLength());
    check_preprocess(settings, tensor->type, element);
    if (tensor->device != device) throw EngineError(kInvalidArgument, "preprocess: the tensor is on another device");
    return environment.submit(
        info.Env(), device->side_queue(), cancelled,
        [device, rgb, settings, buffer = tensor->buffer, element] {
          device->preprocess(rgb, settings, *buffer, static_cast<size_t>(element));
        },
        [](Napi::Env env) { return env.Undefined(); }, {data.As<Napi::Object>()});
  });
}

}  // namespace omni_id::bindings
