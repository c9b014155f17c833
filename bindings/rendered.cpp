#include "base/thread_pool.h"
#include "objects.h"
#include "values.h"

namespace omni_id::bindings {

namespace {

using namespace rendered;

template <typename Array, typename Values>
Array copy_of(Napi::Env env, const Values& values) {
  Array array = Array::New(env, values.size());
  std::copy(values.begin(), values.end(), array.Data());
  return array;
}

uint64_t seed_from(const Napi::Object& options, const char* name) {
  return static_cast<uint64_t>(integer_from(options.Get(name), name));
}

// { shapeSeed, colouringSeed, viewSeed, viewNumber, size, crop, pose?: { yaw, pitch, roll }, poseSpread, neutralExpression,
// jitter, glasses? }
RenderRequest request_from(const Napi::Value& value) {
  if (!value.IsObject()) throw EngineError(kInvalidArgument, "render: expected a request");
  const auto options = value.As<Napi::Object>();
  RenderRequest request;
  request.shape_seed = seed_from(options, "shapeSeed");
  request.colouring_seed = seed_from(options, "colouringSeed");
  request.view_seed = seed_from(options, "viewSeed");
  request.view_number = seed_from(options, "viewNumber");
  const int64_t size = integer_from(options.Get("size"), "size");
  request.crop = options.Get("crop").ToNumber().FloatValue();
  // The grid of samples is counted in 32 bits.
  if (size < 1 || size > 2048)
    throw EngineError(kInvalidArgument, "render: size is " + std::to_string(size) + ", expected a whole number from 1 to 2048");
  if (!(request.crop >= 0.25f && request.crop <= 4))
    throw EngineError(kInvalidArgument,
                      "render: crop is " + std::to_string(request.crop) + ", expected a number from 0.25 to 4");
  request.size = static_cast<int>(size);
  request.view.pose_spread = options.Get("poseSpread").ToNumber().FloatValue();
  if (!(request.view.pose_spread >= 0 && request.view.pose_spread <= 2))
    throw EngineError(kInvalidArgument,
                      "render: poseSpread is " + std::to_string(request.view.pose_spread) + ", expected a number from 0 to 2");
  request.view.neutral_expression = options.Get("neutralExpression").ToBoolean();
  request.view.jitter = options.Get("jitter").ToBoolean();
  if (options.Get("glasses").IsBoolean()) request.view.glasses = options.Get("glasses").ToBoolean();
  const Napi::Value pose = options.Get("pose");
  if (pose.IsObject()) {
    const auto angle = [&](const char* name) {
      const float degrees = pose.As<Napi::Object>().Get(name).ToNumber().FloatValue();
      if (!(degrees >= -180 && degrees <= 180))
        throw EngineError(kInvalidArgument, "render: angles are from -180 to 180 degrees");
      return degrees;
    };
    request.view.pose = Pose{angle("yaw"), angle("pitch"), angle("roll")};
  }
  return request;
}

Napi::Value to_js(Napi::Env env, const RenderedImage& image) {
  Napi::Object result = Napi::Object::New(env), pose = Napi::Object::New(env);
  pose.Set("yaw", image.pose.yaw);
  pose.Set("pitch", image.pose.pitch);
  pose.Set("roll", image.pose.roll);
  result.Set("pixels", copy_of<Napi::Uint8Array>(env, image.pixels));
  result.Set("mask", copy_of<Napi::Uint8Array>(env, image.mask));
  result.Set("pose", pose);
  result.Set("landmarks", copy_of<Napi::Float32Array>(env, image.landmarks));
  result.Set("identityCoefficients", copy_of<Napi::Float32Array>(env, image.identity));
  result.Set("expressionCoefficients", copy_of<Napi::Float32Array>(env, image.expression));
  return result;
}

}  // namespace

Napi::Function FaceRendererObject::define(Napi::Env env) {
  return DefineClass(env, "FaceRenderer", {InstanceMethod<&FaceRendererObject::render>("render")});
}

// (file, { [tensor]: { offset, bytes } }, threads)
FaceRendererObject::FaceRendererObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  guarded(info.Env(), [&] {
    const auto& file = unwrap<MappedFileObject>(info[0], Environment::of(info.Env()).mapped_file, "a MappedFile").engine();
    if (!info[1].IsObject()) throw EngineError(kInvalidArgument, "FaceRenderer: expected tensors");
    const auto given = info[1].As<Napi::Object>();
    const Napi::Array names = given.GetPropertyNames();
    std::map<std::string, PackedTensor> tensors;
    for (uint32_t i = 0; i < names.Length(); ++i) {
      const std::string name = string_from(names.Get(i), "name");
      const Napi::Value place = given.Get(name);
      if (!place.IsObject()) throw EngineError(kInvalidArgument, "FaceRenderer: expected { offset, bytes }");
      const int64_t offset = integer_from(place.As<Napi::Object>().Get("offset"), "offset");
      const int64_t bytes = integer_from(place.As<Napi::Object>().Get("bytes"), "bytes");
      if (offset < 0 || bytes < 0) throw EngineError(kInvalidArgument, "FaceRenderer: offset and bytes are not negative");
      tensors[name] = {static_cast<size_t>(offset), static_cast<size_t>(bytes)};
    }
    const int64_t threads = info[2].IsUndefined() ? available_parallelism() : integer_from(info[2], "threads");
    if (threads < 1 || threads > 1024) throw EngineError(kInvalidArgument, "FaceRenderer: 1 to 1024 threads");
    engine_ = std::make_shared<RenderService>(FaceModel(file, tensors), static_cast<int>(threads));
  });
}

// render(request, cancellation): Promise<image>
Napi::Value FaceRendererObject::render(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Environment& environment = Environment::of(info.Env());
    const RenderRequest request = request_from(info[0]);
    const CancelFlag cancelled = unwrap<CancellationObject>(info[1], environment.cancellation, "a Cancellation").flag();
    auto image = std::make_shared<RenderedImage>();
    return environment.submit(
        info.Env(), engine()->next_queue(), cancelled,
        [service = engine(), request, image] { *image = service->renderer().render(request); },
        [image](Napi::Env env) { return to_js(env, *image); });
  });
}

}  // namespace omni_id::bindings
