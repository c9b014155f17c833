#include "image/clip_preprocess.h"

#include "base/error.h"
#include "cpu/device.h"
#include "objects.h"
#include "values.h"

namespace omni_id::bindings {

// preprocess(device, { data: Uint8Array, width, height }, { resize, crop, rescale, mean, std }, tensor, element, cancellation)
// The image's memory is read on the engine's threads while the promise is pending: it must not change or be transferred.
Napi::Value preprocess(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Environment& environment = Environment::of(info.Env());
    const auto device = unwrap<DeviceObject>(info[0], environment.device, "a Device").engine();
    const auto tensor = unwrap<TensorObject>(info[3], environment.tensor, "a Tensor").engine();
    const CancelFlag cancelled = unwrap<CancellationObject>(info[5], environment.cancellation, "a Cancellation").flag();
    const auto cpu = std::dynamic_pointer_cast<CpuDevice>(device);
    if (!cpu || !info[1].IsObject() || !info[2].IsObject()) {
      throw EngineError(kInvalidArgument, "preprocess: expected a CPU device, an image and settings");
    }
    const Napi::Object image = info[1].As<Napi::Object>(), options = info[2].As<Napi::Object>();
    const Napi::Value data = image.Get("data");
    if (!data.IsTypedArray() || (data.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)) {
      throw EngineError(kInvalidArgument, "preprocess: expected a Uint8Array");
    }
    const auto bytes = data.As<Napi::Uint8Array>();
    const RgbImage rgb{bytes.Data(), integer_from(image.Get("width"), "width"), integer_from(image.Get("height"), "height")};
    if (rgb.width < 1 || rgb.height < 1 || rgb.width > (int64_t{1} << 31) / rgb.height / 3 ||
        bytes.ElementLength() != static_cast<size_t>(rgb.width * rgb.height * 3)) {
      throw EngineError(kPixelsInvalid, "preprocess: " + std::to_string(bytes.ElementLength()) + " bytes do not make " +
                                            std::to_string(rgb.width) + " × " + std::to_string(rgb.height) + " × 3");
    }
    ClipPreprocess settings;
    settings.resize_shortest_edge = integer_from(options.Get("resize"), "resize");
    settings.crop = integer_from(options.Get("crop"), "crop");
    settings.rescale = options.Get("rescale").ToNumber();
    const Napi::Value means = options.Get("mean"), deviations = options.Get("std");
    if (!means.IsArray() || !deviations.IsArray()) throw EngineError(kInvalidArgument, "preprocess: expected mean and std");
    for (uint32_t i = 0; i < 3; ++i) {
      settings.mean[i] = means.As<Napi::Array>().Get(i).ToNumber().FloatValue();
      settings.standard_deviation[i] = deviations.As<Napi::Array>().Get(i).ToNumber().FloatValue();
    }
    const int64_t element = integer_from(info[4], "element"), total = tensor->type.elements();
    if (settings.crop < 1 || settings.crop > 16384 || settings.resize_shortest_edge < 1 ||
        settings.resize_shortest_edge > 16384 || tensor->type.dtype != DType::f32 || element < 0 ||
        3 * settings.crop * settings.crop > total || element > total - 3 * settings.crop * settings.crop) {
      throw EngineError(kInvalidArgument, "preprocess: a crop of " + std::to_string(settings.crop) + " at element " +
                                              std::to_string(element) + " of " + to_string(tensor->type));
    }
    const auto buffer = tensor->buffer;
    return environment.submit(
        info.Env(), device->side_queue(), cancelled,
        [cpu, rgb, settings, buffer, element] {
          clip_preprocess(cpu->kernels(), rgb, settings, reinterpret_cast<float*>(buffer->data()) + element);
        },
        [](Napi::Env env) { return env.Undefined(); }, {data.As<Napi::Object>()});
  });
}

}  // namespace omni_id::bindings
