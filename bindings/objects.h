#pragma once

#include <napi.h>

#include <memory>

#include "base/error.h"
#include "environment.h"
#include "rendered/service.h"
#include "runtime/plan.h"

// The engine's objects as JavaScript classes, one to one. Each holds a shared pointer, so that a run under way keeps what it
// uses whatever JavaScript disposes of or forgets meanwhile. `dispose()` drops the pointer; using the object then throws
// ERR_DISPOSED.
namespace omni_id::bindings {

template <typename Engine>
class Holder {
 public:
  const std::shared_ptr<Engine>& engine() const {
    if (!engine_) throw EngineError(kDisposed, "the object was used after dispose()");
    return engine_;
  }

 protected:
  std::shared_ptr<Engine> engine_;
};

// The wrapped object behind a JavaScript value, or ERR_INVALID_ARGUMENT.
template <typename Wrapper>
Wrapper& unwrap(const Napi::Value& value, const Napi::FunctionReference& constructor, const char* what) {
  if (!value.IsObject() || !value.As<Napi::Object>().InstanceOf(constructor.Value())) {
    throw EngineError(kInvalidArgument, std::string(what) + " expected");
  }
  return *Wrapper::Unwrap(value.As<Napi::Object>());
}

class DeviceObject : public Napi::ObjectWrap<DeviceObject>, public Holder<Device> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit DeviceObject(const Napi::CallbackInfo& info);

 private:
  Napi::Value describe(const Napi::CallbackInfo& info);
  Napi::Value memory(const Napi::CallbackInfo& info);
  // measurePeak(what, seconds): Promise<number>
  Napi::Value measure_peak(const Napi::CallbackInfo& info);
};

struct TensorData {
  TensorType type;
  std::shared_ptr<Device> device;
  std::shared_ptr<Buffer> buffer;
};

// Memory on a device that runs read from and write to.
class TensorObject : public Napi::ObjectWrap<TensorObject>, public Holder<TensorData> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit TensorObject(const Napi::CallbackInfo& info);
  ~TensorObject() override;

 private:
  Napi::Value write(const Napi::CallbackInfo& info);
  Napi::Value read(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);
  int64_t reported_ = 0;
};

class MappedFileObject : public Napi::ObjectWrap<MappedFileObject>, public Holder<MappedFile> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit MappedFileObject(const Napi::CallbackInfo& info);

 private:
  Napi::Value byte_length(const Napi::CallbackInfo& info);
  Napi::Value bytes(const Napi::CallbackInfo& info);
  void close(const Napi::CallbackInfo& info);
};

class WeightsObject : public Napi::ObjectWrap<WeightsObject>, public Holder<WeightStore> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit WeightsObject(const Napi::CallbackInfo& info);
  ~WeightsObject() override;
  // Tells V8 how much native memory the weights hold by now.
  void report(Napi::Env env);

 private:
  void set_mapped(const Napi::CallbackInfo& info);
  void set(const Napi::CallbackInfo& info);
  Napi::Value set_normal(const Napi::CallbackInfo& info);
  Napi::Value names(const Napi::CallbackInfo& info);
  Napi::Value type(const Napi::CallbackInfo& info);
  Napi::Value read(const Napi::CallbackInfo& info);
  Napi::Value packed(const Napi::CallbackInfo& info);
  Napi::Value read_packed(const Napi::CallbackInfo& info);
  void set_packed(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);
  int64_t reported_ = 0;
};

class CancellationObject : public Napi::ObjectWrap<CancellationObject> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit CancellationObject(const Napi::CallbackInfo& info);
  const CancelFlag& flag() const { return flag_; }

 private:
  void cancel(const Napi::CallbackInfo& info);
  CancelFlag flag_;
};

class PlanObject : public Napi::ObjectWrap<PlanObject>, public Holder<Plan> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit PlanObject(const Napi::CallbackInfo& info);
  // compile(device, weights, graph, cancellation): Promise<Plan>
  static Napi::Value compile(const Napi::CallbackInfo& info);

 private:
  Napi::Value run(const Napi::CallbackInfo& info);
  // profile(tensors, cancellation): Promise of a description of every step, with its time
  Napi::Value profile(const Napi::CallbackInfo& info);
  Napi::Value submit(const Napi::CallbackInfo& info, std::shared_ptr<std::vector<double>> step_seconds);
  Napi::Value arena_bytes(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);
};

// Draws people from the packed face model.
class FaceRendererObject : public Napi::ObjectWrap<FaceRendererObject>, public Holder<rendered::RenderService> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit FaceRendererObject(const Napi::CallbackInfo& info);

 private:
  Napi::Value render(const Napi::CallbackInfo& info);
};

// preprocess(device, image, settings, tensor, element, cancellation): Promise<void>
Napi::Value preprocess(const Napi::CallbackInfo& info);

// cudaDevices(): what CUDA devices there are, or why there are none
Napi::Value cuda_devices(const Napi::CallbackInfo& info);

// See reference.cpp.
Napi::Value evaluate_reference(const Napi::CallbackInfo& info);
Napi::Value operator_cases(const Napi::CallbackInfo& info);

}  // namespace omni_id::bindings
